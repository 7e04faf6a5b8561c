// How the states of downloads are shown.
import type { IconName } from "../parts/icons.tsx";
import type { DownloadState } from "./progress.ts";

interface Shown {
  word: string;
  icon: IconName;
  tone: "good" | "busy" | "bad" | "quiet";
}

export const DOWNLOAD_STATES: Record<DownloadState, Shown> = {
  queued: { word: "Waiting", icon: "waiting", tone: "busy" },
  downloading: { word: "Downloading", icon: "busy", tone: "busy" },
  verifying: { word: "Checking", icon: "busy", tone: "busy" },
  paused: { word: "Paused", icon: "pause", tone: "quiet" },
  failed: { word: "Failed", icon: "failed", tone: "bad" },
  done: { word: "Done", icon: "ready", tone: "good" },
};
