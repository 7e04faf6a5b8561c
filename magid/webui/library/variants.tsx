// The models of one repository, with their sizes, and which of them this machine has room for.
import { useState } from "preact/hooks";

import type { Variant, Variants } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { bytes } from "../parts/format.ts";
import { Icon, type IconName } from "../parts/icons.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { live } from "../stream/client.ts";
import { start } from "./asking.ts";
import { DownloadButton } from "./download_button.tsx";
import {
  downloadOf,
  modelOf,
  parted,
  roomFor,
  sourceOf,
  type Room,
} from "./progress.ts";

const ROOMS: Record<Room, { word: string; icon: IconName; tone: string }> = {
  gpu: { word: "On GPUs", icon: "ready", tone: "good" },
  memory: { word: "On processor", icon: "ready", tone: "good" },
  no: { word: "Too large", icon: "failed", tone: "bad" },
  disk: { word: "No disk space", icon: "failed", tone: "bad" },
};

interface Props {
  found: Variants;
  freeBytes: number | undefined;
  close: () => void;
}

export function VariantList({ found, freeBytes, close }: Props) {
  const [draft, setDraft] = useState(false);
  const { repository, commit, licence, variants } = found;
  if (variants.length === 0) {
    return (
      <Empty title={`${repository} has no GGUF models`}>
        <p>Those that have often end in -GGUF.</p>
      </Empty>
    );
  }
  return (
    <div class="variants">
      <div class="heading">
        <h3>{repository}</h3>
        <span class="quiet">
          commit {commit.slice(0, 10)}, {licence ? `licence ${licence}` : "no licence named"}
        </span>
        <button onClick={close}>Close</button>
      </div>
      <Table
        label="Variants"
        columns={columns(found, freeBytes, draft)}
        rows={variants}
        keyOf={({ file }) => file}
      />
      <div class="filters under">
        <label class="check">
          <input type="checkbox" checked={draft} onChange={() => setDraft(!draft)} /> Also the small
          model that guesses ahead, if there is one
        </label>
      </div>
      <p class="quiet">
        Whether it fits goes by the size of the files; what it needs with its context is known once
        it is here.
      </p>
    </div>
  );
}

function columns(
  found: Variants,
  freeBytes: number | undefined,
  draft: boolean,
): Column<Variant>[] {
  return [
    { key: "variant", title: "Variant",
      cell: ({ name, file }) => (
        <span class="name" title={file}>
          {name || "–"}
        </span>
      ) },
    { key: "file", title: "File", low: true,
      cell: ({ file, files }) => (
        <span title={file}>
          {parted(file).name}
          {files > 1 && <span class="quiet"> and {files - 1} more</span>}
        </span>
      ) },
    { key: "with", title: "Comes with", mid: true,
      cell: ({ companions }) => companions.map((path) => parted(path).name).join(", ") },
    { key: "size", title: "Size", isNumber: true, cell: ({ sizeBytes }) => bytes(sizeBytes) },
    { key: "room", title: "Fits",
      cell: (variant) => <RoomBadge room={roomFor(variant, freeBytes)} /> },
    { key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
      cell: (variant) => <Get found={found} variant={variant} draft={draft} /> },
  ];
}

function RoomBadge({ room }: { room: Room }) {
  const { word, icon, tone } = ROOMS[room];
  return (
    <span class={`state ${tone}`}>
      <Icon name={icon} />
      {word}
    </span>
  );
}

interface GetProps {
  found: Variants;
  variant: Variant;
  draft: boolean;
}

function Get({ found: { repository, revision }, variant, draft }: GetProps) {
  const now = live.value;
  if (now === undefined) return null;
  const under = downloadOf(now.downloads, repository, variant);
  const here = modelOf(now.registry.models, now.library, repository, variant.file);
  if (here !== undefined && under === undefined) {
    return (
      <a href={to("models", here.modelId)} aria-label={`Here: ${here.displayName}`}>
        Here
      </a>
    );
  }
  return (
    <DownloadButton
      under={under}
      name={variant.name || variant.file}
      onStart={() => void start(sourceOf(repository, revision, variant), draft)}
    />
  );
}
