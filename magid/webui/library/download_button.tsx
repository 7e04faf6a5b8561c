// Starts a download, or lets it go on. It stays where it is while the download runs, so that the
// focus stays too.
import type { Download } from "../api/types.ts";
import { ask } from "./asking.ts";
import { isUnderWay, stateOf } from "./progress.ts";
import { DOWNLOAD_STATES } from "./states.ts";

interface Props {
  under: Download | undefined; // the one that is not done yet
  name: string;
  onStart: () => void;
}

export function DownloadButton({ under, name, onStart }: Props) {
  if (under === undefined) {
    return (
      <button aria-label={`Download ${name}`} onClick={onStart}>
        Download
      </button>
    );
  }
  const isBusy = isUnderWay(under);
  const word = isBusy ? DOWNLOAD_STATES[stateOf(under)].word : "Go on";
  return (
    <button
      aria-disabled={isBusy}
      aria-label={`${word}: ${name}`}
      onClick={() => {
        if (!isBusy) void ask("resume", under);
      }}
    >
      {word}
    </button>
  );
}
