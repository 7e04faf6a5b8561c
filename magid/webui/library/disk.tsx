// What the disk holds: free space by model folder, models, unfinished downloads, other files.
import { mayChange } from "../api/request.ts";
import type { Disk, FileOnDisk } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { bytes, moment } from "../parts/format.ts";
import { MemoryBar } from "../parts/memory_bar.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import type { Live } from "../stream/state.ts";
import type { DiskUsage } from "./disk_usage.ts";
import { downloadAt, parted, shortName } from "./progress.ts";
import { RemoveButton } from "./removal.tsx";

interface Props {
  live: Live;
  disk: DiskUsage;
}

export function DiskView({ live, disk: { reply, problem, lookAgain } }: Props) {
  return (
    <section aria-labelledby="disk">
      <div class="heading">
        <h2 id="disk" tabIndex={-1}>
          Disk
        </h2>
        <button onClick={lookAgain}>Look again</button>
      </div>
      {problem && <p class="problem">{problem}</p>}
      {reply === undefined && !problem && <p class="quiet">Looking at the model folders …</p>}
      {reply && <Usage live={live} disk={reply} />}
    </section>
  );
}

function Usage({ live, disk }: { live: Live; disk: Disk }) {
  return (
    <>
      <Roots roots={disk.roots} />
      {disk.models.length === 0 ? (
        <NoFiles live={live} />
      ) : (
        <ModelUsages live={live} models={disk.models} />
      )}
      <Files
        title="Unfinished downloads"
        files={disk.unfinished}
        nameOf={(path) => downloadName(live, path) ?? parted(path).name}
      />
      <Files
        title="Files of no model"
        files={disk.others}
        nameOf={(path) => parted(path).name}
      />
      {disk.smallBytes > 0 && (
        <p class="quiet">Files of less than a MiB take {bytes(disk.smallBytes)} together.</p>
      )}
    </>
  );
}

function NoFiles({ live }: { live: Live }) {
  const how = mayChange() && live.library !== null ? "Get one above, or put" : "Put";
  return (
    <Empty title="No models on the disk">
      <p>
        {how} GGUF files into {live.registry.scanPaths.join(" or ")}.
      </p>
    </Empty>
  );
}

function Roots({ roots }: { roots: Disk["roots"] }) {
  return (
    <div class="columns">
      {roots.map(({ path, isLibrary, totalBytes, freeBytes, problem }) =>
        problem ? (
          <p class="problem" key={path}>
            {path}: {problem}
          </p>
        ) : (
          <MemoryBar
            key={path}
            title={path}
            detail={isLibrary ? "downloads go here" : ""}
            total={totalBytes}
            segments={[{ label: "In use", bytes: totalBytes - freeBytes, kind: "model" }]}
          />
        ),
      )}
    </div>
  );
}

type ModelUsage = Disk["models"][number];

function ModelUsages({ live, models }: { live: Live; models: ModelUsage[] }) {
  const known = live.registry.models;
  const nameOf = (id: string) => known[id]?.displayName ?? id;
  const columns: Column<ModelUsage>[] = [
    { key: "name", title: "Model",
      cell: ({ modelId }) => (
        <a class="name" href={to("models", modelId)} title={modelId}>
          {nameOf(modelId)}
        </a>
      ) },
    { key: "size", title: "On disk", isNumber: true,
      cell: ({ sizeBytes }) => bytes(sizeBytes || null) }, // small files have no figure
    { key: "shared", title: "Shared", isNumber: true, low: true,
      cell: ({ sharedBytes }) => bytes(sharedBytes || null) },
    { key: "folder", title: "Folder", low: true,
      cell: ({ modelId }) => {
        const { folder } = parted(known[modelId]?.filePath ?? "");
        return <span title={folder}>{folder}</span>;
      } },
  ];
  if (mayChange()) {
    columns.push({ key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
      cell: ({ modelId }) => (
        <RemoveButton modelId={modelId} name={nameOf(modelId)} onGone={toHeading}>
          Remove
        </RemoveButton>
      ) });
  }
  return <Table label="Models on the disk" columns={columns} rows={models} keyOf={idOf} />;
}

/** The row is gone, and with it the button that had the focus. */
const toHeading = () => document.getElementById("disk")?.focus();
const idOf = ({ modelId }: ModelUsage) => modelId;

/** What magid's own part of a download belongs to. */
function downloadName(live: Live, path: string): string | undefined {
  const download = downloadAt(live.downloads, path);
  return download && shortName(download);
}

interface FilesProps {
  title: string;
  files: FileOnDisk[];
  nameOf: (path: string) => string;
}

function Files({ title, files, nameOf }: FilesProps) {
  if (files.length === 0) return null;
  const columns: Column<FileOnDisk>[] = [
    { key: "name", title,
      cell: ({ path }) => <span title={path}>{nameOf(path)}</span> },
    { key: "size", title: "On disk", isNumber: true, cell: ({ sizeBytes }) => bytes(sizeBytes) },
    { key: "at", title: "Changed", low: true, cell: ({ changedAt }) => moment(changedAt) },
    { key: "folder", title: "Folder", low: true,
      cell: ({ path }) => <span title={path}>{parted(path).folder}</span> },
  ];
  return (
    <div class="further">
      <Table label={title} columns={columns} rows={files} keyOf={({ path }) => path} />
    </div>
  );
}
