// Samples of the counts of requests, for as long as the page is open.
import { signal } from "@preact/signals";

import { listeners } from "./client.ts";
import { withSample, type Sample } from "./rates.ts";
import type { RequestCounts } from "./state.ts";

export const samples = signal<Sample[]>([]);

/** Called once, before the stream is opened. */
export function keepHistory(): void {
  listeners.add(({ kind, data }) => {
    if (kind !== "snapshot" && kind !== "requests") return;
    const counts = data.requests as RequestCounts;
    samples.value = withSample(samples.peek(), { at: Date.now(), counts });
  });
}
