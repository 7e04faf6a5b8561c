// What the user asks of downloads. The stream tells what comes of it.
import { signal } from "@preact/signals";

import { post, remove } from "../api/request.ts";
import type { Download } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { bytes } from "../parts/format.ts";
import { act, tellError } from "../parts/notices.tsx";
import { live } from "../stream/client.ts";
import { isDone, type DownloadVerb, type Started } from "./progress.ts";

const path = (id: string) => `api/library/downloads/${encodeURIComponent(id)}`;

const waiting = signal<ReadonlySet<string>>(new Set());

const keyOf = (verb: DownloadVerb, { id }: Download) =>
  `${verb === "pause" || verb === "resume" ? "move" : "remove"} ${id}`;

/** Whether magid was asked for this, and has not answered yet. A removal waits for no pause. */
export const isAsked = (verb: DownloadVerb, download: Download): boolean =>
  waiting.value.has(keyOf(verb, download));

/** Starts a download, or continues it: of one thing there is one. Undefined: it was refused. */
export async function start(source: string, draft: boolean): Promise<Started | undefined> {
  const before = live.peek()?.downloads ?? {};
  try {
    const answer = await post<Download>("api/library/downloads", { source, draft });
    const replaced = before[answer.id];
    return { answer, replaced: replaced && isDone(replaced) ? replaced : undefined };
  } catch (error) {
    tellError(error);
    return undefined;
  }
}

/** Returns whether it was done. */
export async function ask(verb: DownloadVerb, download: Download): Promise<boolean> {
  const key = keyOf(verb, download);
  if (waiting.peek().has(key)) return false;
  if (verb === "cancel" || verb === "remove") return removed(key, download);
  return whileWaiting(key, async () => {
    try {
      await post<Download>(`${path(download.id)}/${verb}`);
      return true;
    } catch (error) {
      tellError(error);
      return false;
    }
  });
}

/** Asks first where something would be lost. */
async function removed(key: string, download: Download): Promise<boolean> {
  const { id, source, state, doneBytes } = download;
  const isLost = state !== "done" && doneBytes > 0;
  const text = `It ends, and the ${bytes(doneBytes)} that have come are removed.`;
  if (isLost && !(await confirmed(`Remove the download of ${source}?`, text, "Remove"))) {
    return false;
  }
  return whileWaiting(key, () => act(() => remove<{ message: string }>(path(id))));
}

async function whileWaiting(key: string, doIt: () => Promise<boolean>): Promise<boolean> {
  waiting.value = new Set([...waiting.peek(), key]);
  try {
    return await doIt();
  } finally {
    waiting.value = new Set([...waiting.peek()].filter((one) => one !== key));
  }
}
