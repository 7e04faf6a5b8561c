// What downloads, variants and files are called, how far they are, what may be done. Pure.
import type { Download, Model, ModelOrigin, Variant } from "../api/types.ts";

export type DownloadState =
  "queued" | "downloading" | "verifying" | "paused" | "failed" | "done";

export type DownloadVerb = "pause" | "resume" | "cancel" | "remove";

const VERBS: Record<DownloadState, DownloadVerb[]> = {
  queued: ["pause", "cancel"],
  downloading: ["pause", "cancel"],
  verifying: ["pause", "cancel"],
  paused: ["resume", "cancel"],
  failed: ["resume", "remove"],
  done: ["remove"],
};

/** What a download may be asked now; the first one halts it or lets it go on. */
export const verbsFor = (download: Download): DownloadVerb[] => VERBS[stateOf(download)];

const isState = (text: string): text is DownloadState => text in VERBS;

/** A state that this page does not know is shown as one that waits. */
export const stateOf = ({ state }: Download): DownloadState =>
  isState(state) ? state : "queued";

/** Whether a process is at work on it, or is to be. */
export const isUnderWay = (download: Download): boolean =>
  ["queued", "downloading", "verifying"].includes(stateOf(download));

export const isDone = (download: Download): boolean => download.state === "done";

/** From 0 to 1; undefined while the hub has told no size. */
export function share({ doneBytes, totalBytes }: Download): number | undefined {
  return totalBytes > 0 ? Math.min(1, doneBytes / totalBytes) : undefined;
}

/** A file's name, and the folder that it is in. */
export function parted(path: string): { name: string; folder: string } {
  const at = path.lastIndexOf("/");
  return { name: path.slice(at + 1), folder: path.slice(0, Math.max(at, 0)) };
}

/** What a download is called beside its repository: the file, the tag, or the repository's name. */
export function shortName({ file, tag, repository }: Download): string {
  if (file) return parted(file).name.replace(/\.gguf$/, "");
  const { name } = parted(repository);
  return tag ? `${name}:${tag}` : name;
}

/** Those under way first, then what waits for the user; each the newest first. */
export function unfinished(downloads: Record<string, Download>): Download[] {
  const open = Object.values(downloads).filter((download) => !isDone(download));
  return open.toSorted(
    (one, other) => Number(isUnderWay(other)) - Number(isUnderWay(one)) || newest(one, other),
  );
}

export function finished(downloads: Record<string, Download>): Download[] {
  return Object.values(downloads).filter(isDone).toSorted(newest);
}

const newest = (one: Download, other: Download) => other.createdAt.localeCompare(one.createdAt);

type Models = Record<string, Model>;

/** The model that has this file of the repository; undefined if none has it yet. */
export function modelOf(
  models: Models,
  library: string | null,
  repository: string,
  file: string,
): Model | undefined {
  if (library === null) return undefined;
  const path = `${library.replace(/\/$/, "")}/${repository}/${file}`;
  return Object.values(models).find(
    (model) => model.filePath === path || model.files.includes(path),
  );
}

/** The download that has this variant, under whatever name it was asked for. */
export function downloadOf(
  downloads: Record<string, Download>,
  repository: string,
  { file }: Variant,
): Download | undefined {
  return Object.values(downloads).find(
    (one) =>
      one.repository === repository &&
      !isDone(one) &&
      (one.file === file || one.files.some(({ path }) => path === file)),
  );
}

/** A download that was started here. */
export interface Started {
  answer: Download; // magid's, to the start
  replaced: Download | undefined; // the one with the same id that was done before
}

/** The one that was started here; else the newest of what was typed: a draft has the same text. */
export function downloadFrom(
  downloads: Record<string, Download>,
  source: string,
  started?: Started,
): Download | undefined {
  if (started === undefined) {
    return Object.values(downloads).filter((one) => one.source === source).toSorted(newest)[0];
  }
  const { answer, replaced } = started;
  const now = downloads[answer.id];
  // The stream may not have told yet that the old one is no more.
  const isOld = now !== undefined && isDone(now) && now.createdAt === replaced?.createdAt;
  return isOld ? answer : now;
}

export type Room = "gpu" | "memory" | "no" | "disk";

/** Where a variant would run; `disk` if the disk has no room for it. */
export function roomFor({ fits, sizeBytes }: Variant, freeBytes: number | undefined): Room {
  if (freeBytes !== undefined && sizeBytes > freeBytes) return "disk";
  return fits === "gpu" || fits === "memory" ? fits : "no";
}

/** What is typed to download exactly this variant. */
export function sourceOf(repository: string, revision: string, { file }: Variant): string {
  return `${repository}/${file}` + (revision === "main" ? "" : `@${revision}`);
}

/** The download that a file of magid's own folder of downloads belongs to, if it is known. */
export function downloadAt(
  downloads: Record<string, Download>,
  path: string,
): Download | undefined {
  const id = /\/\.downloads\/([^/]+)\//.exec(path)?.[1] ?? "";
  return Object.hasOwn(downloads, id) ? downloads[id] : undefined; // a folder has any name
}

/** The address of a repository's page, at this commit; undefined if it can be no web page. */
export function pageOf({ endpoint, repository, commit }: ModelOrigin): string | undefined {
  try {
    const { protocol, origin, pathname } = new URL(endpoint);
    if (protocol !== "https:" && protocol !== "http:") return undefined;
    const words = [...repository.split("/"), "tree", commit].map(encodeURIComponent);
    return [`${origin}${pathname}`.replace(/\/+$/, ""), ...words].join("/");
  } catch {
    return undefined;
  }
}
