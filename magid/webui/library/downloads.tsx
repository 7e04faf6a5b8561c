// Downloads: how far each is, how fast, and what may be done with it.
import { mayChange } from "../api/request.ts";
import type { Download } from "../api/types.ts";
import { Command } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { bytes, counted, duration, moment } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import type { Live } from "../stream/state.ts";
import { ask, isAsked } from "./asking.ts";
import {
  finished,
  modelOf,
  share,
  shortName,
  stateOf,
  unfinished,
  verbsFor,
  type DownloadVerb,
} from "./progress.ts";
import { DOWNLOAD_STATES } from "./states.ts";

const WORDS: Record<DownloadVerb, string> = {
  pause: "Pause",
  resume: "Go on",
  cancel: "Cancel",
  remove: "Remove",
};

export function Downloads({ live }: { live: Live }) {
  const open = unfinished(live.downloads);
  const done = finished(live.downloads);
  return (
    <section aria-labelledby="downloads">
      <h2 id="downloads" tabIndex={-1}>
        Downloads
      </h2>
      {open.length + done.length === 0 && <NoDownloads live={live} />}
      <ul class="downloads">
        {open.map((download) => (
          <Unfinished key={download.id} download={download} />
        ))}
      </ul>
      {done.length > 0 && <Finished downloads={done} live={live} />}
    </section>
  );
}

function NoDownloads({ live }: { live: Live }) {
  if (live.library === null) return <p class="quiet">There are none.</p>;
  return (
    <Empty title="No downloads yet">
      {mayChange() ? (
        <p>
          Name a repository above. On the server: <Command text="magictl pull ORG/REPOSITORY" />
        </p>
      ) : (
        <p>An administrator starts them, here or with magictl pull.</p>
      )}
    </Empty>
  );
}

function Unfinished({ download }: { download: Download }) {
  const { source, repository, reason, notes } = download;
  const part = share(download);
  const isBad = download.state === "failed";
  return (
    <li>
      <div class="download">
        <div class="what" title={source}>
          <span class="name">{shortName(download)}</span> <span class="quiet">{repository}</span>
        </div>
        <DownloadBadge download={download} />
        <span class="buttons">
          <Verbs download={download} />
        </span>
      </div>
      {part !== undefined && (
        <progress aria-label={`Download of ${source}`} value={part} max={1} />
      )}
      <Figures download={download} />
      {reason && <p class={isBad ? "problem" : "quiet"}>{reason}</p>}
      {notes.map((note) => (
        <p class="quiet" key={note}>
          {note}
        </p>
      ))}
    </li>
  );
}

function DownloadBadge({ download }: { download: Download }) {
  const { word, icon, tone } = DOWNLOAD_STATES[stateOf(download)];
  return (
    <span class={`state ${tone}`}>
      <Icon name={icon} spins={icon === "busy"} />
      {word}
    </span>
  );
}

/** How much of how much; while it moves, how fast and how long still. */
function Figures({ download }: { download: Download }) {
  const { doneBytes, totalBytes, bytesPerSecond, secondsLeft, files } = download;
  const part = share(download);
  if (part === undefined) return null;
  const isMoving = download.state === "downloading" && bytesPerSecond > 0;
  return (
    <p class="figures-line quiet">
      <span>
        {bytes(doneBytes)} of {bytes(totalBytes)}
      </span>
      <span>{Math.floor(100 * part)} %</span>
      {files.length > 1 && <span>{counted(files.length, "file")}</span>}
      {isMoving && <span>{bytes(bytesPerSecond)}/s</span>}
      {isMoving && secondsLeft !== null && <span>{duration(secondsLeft)} left</span>}
    </p>
  );
}

/** The buttons are the same ones in each state, so that the one with the focus keeps it. */
function Verbs({ download }: { download: Download }) {
  if (!mayChange()) return null;
  return (
    <>
      {verbsFor(download).map((verb, index) => (
        <button
          key={index}
          aria-disabled={isAsked(verb, download)}
          aria-label={`${WORDS[verb]}: ${download.source}`}
          onClick={() => void act(verb, download)}
        >
          {WORDS[verb]}
        </button>
      ))}
    </>
  );
}

async function act(verb: DownloadVerb, download: Download): Promise<void> {
  const isGone = (await ask(verb, download)) && !["pause", "resume"].includes(verb);
  if (isGone) document.getElementById("downloads")?.focus();
}

function Finished({ downloads, live }: { downloads: Download[]; live: Live }) {
  const columns: Column<Download>[] = [
    { key: "name", title: "Downloaded",
      cell: (download) => <Result download={download} live={live} /> },
    { key: "repository", title: "Repository", low: true, cell: ({ repository }) => repository },
    { key: "licence", title: "Licence", mid: true, cell: ({ licence }) => licence || "–" },
    { key: "size", title: "Size", isNumber: true, cell: ({ totalBytes }) => bytes(totalBytes) },
    { key: "at", title: "Ended", low: true, cell: ({ updatedAt }) => moment(updatedAt) },
    { key: "verbs", title: "Actions", isTitleHidden: true, isNumber: true,
      cell: (download) => <Verbs download={download} /> },
  ];
  return (
    <Table label="Finished downloads" columns={columns} rows={downloads} keyOf={({ id }) => id} />
  );
}

/** A link to the model, once magid has read its folders and as long as the model is there. */
function Result({ download, live }: { download: Download; live: Live }) {
  const { repository, files, source } = download;
  const model = modelOf(live.registry.models, live.library, repository, files[0]?.path ?? "");
  const name = shortName(download);
  if (model === undefined) return <span title={source}>{name}</span>;
  return (
    <a class="name" href={to("models", model.modelId)} title={source}>
      {name}
    </a>
  );
}
