// Newer files of models at the hub they came from: looked for when the user asks for it, by magid.
import { useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Outdated } from "../api/types.ts";
import { counted } from "../parts/format.ts";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { live } from "../stream/client.ts";
import type { Live } from "../stream/state.ts";
import { start } from "./asking.ts";
import { DownloadButton } from "./download_button.tsx";
import { downloadFrom, isDone, parted, type Started } from "./progress.ts";

type Found = Outdated["models"][number];
type BySource = Record<string, Started>;

export function Updates() {
  const [found, setFound] = useState<Found[]>();
  const [problem, setProblem] = useState("");
  const [isBusy, setBusy] = useState(false);
  const [started, setStarted] = useState<BySource>({}); // since magid has looked
  const download = async (source: string) => {
    const begun = await start(source, false);
    if (begun) setStarted((others) => ({ ...others, [source]: begun }));
  };
  const look = async () => {
    if (isBusy) return;
    setBusy(true);
    setProblem("");
    try {
      setFound((await get<Outdated>("api/library/outdated")).models);
      setStarted({});
    } catch (error) {
      setProblem((error as Error).message);
    }
    setBusy(false);
  };
  return (
    <section aria-labelledby="updates">
      <div class="heading">
        <h2 id="updates">Newer files</h2>
        <button aria-disabled={isBusy} onClick={() => void look()}>
          Look for newer files
        </button>
      </div>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <div role="status">
        {isBusy && <p class="quiet">Asking the hub, for one model after another …</p>}
        {!isBusy && found && <p class="quiet">{summary(found)}</p>}
      </div>
      {!isBusy && found && (
        <List found={found} started={started} download={(source) => void download(source)} />
      )}
      {!isBusy && !found && (
        <p class="quiet">The hub is asked when you press the button, and by nothing else.</p>
      )}
    </section>
  );
}

const inState = (found: Found[], state: string) => found.filter((one) => one.state === state);

/** Those of unknown origin are only counted: they are all that magid has not downloaded. */
function summary(found: Found[]): string {
  const [newer, current, unknown] = ["newer", "current", "unknown"].map(
    (state) => inState(found, state).length,
  );
  return (
    `${counted(newer ?? 0, "model")} with newer files, ${current ?? 0} as at the hub, ` +
    `${unknown ?? 0} of unknown origin.`
  );
}

interface ListProps {
  found: Found[];
  started: BySource;
  download: (source: string) => void;
}

const columnsFor = ({ registry }: Live, props: ListProps): Column<Found>[] => [
  { key: "name", title: "Model",
    cell: ({ modelId }) => (
      <a class="name" href={to("models", modelId)} title={modelId}>
        {registry.models[modelId]?.displayName ?? modelId}
      </a>
    ) },
  { key: "source", title: "Source", low: true,
    cell: ({ source }) => <span title={source}>{source}</span> },
  { key: "why", title: "At the hub",
    cell: ({ reason, files }) => (
      <span title={reason || files.join(", ")}>
        {reason || files.map((path) => parted(path).name).join(", ")}
      </span>
    ) },
  { key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
    cell: ({ source, state }) => state === "newer" && <Get source={source} {...props} /> },
];

function Get({ source, started, download }: ListProps & { source: string }) {
  const last = downloadFrom(live.value?.downloads ?? {}, source, started[source]);
  const isOld = last !== undefined && isDone(last);
  if (isOld && source in started) return <>Downloaded</>;
  return (
    <DownloadButton
      under={isOld ? undefined : last}
      name={source}
      onStart={() => download(source)}
    />
  );
}

/** Those with newer files first, then those of which the hub did not tell. */
function List(props: ListProps) {
  const { found } = props;
  const now = live.value;
  const others = found.filter(({ state }) => !["newer", "current", "unknown"].includes(state));
  const rows = [...inState(found, "newer"), ...others];
  if (now === undefined || rows.length === 0) return null;
  return (
    <Table
      label="Newer files"
      columns={columnsFor(now, props)}
      rows={rows}
      keyOf={({ modelId }) => modelId}
    />
  );
}
