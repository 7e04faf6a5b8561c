// Requests and tokens a second, from the counts that the stream tells. Pure.
import type { RequestCounts } from "./state.ts";

export interface Sample {
  at: number; // milliseconds
  counts: RequestCounts;
}

export interface Rates {
  requests: number; // that ended, a second
  tokens: number; // of answers that ended, a second
}

const KEPT_MS = 10 * 60_000;
const APART_MS = 1_000;

/**
 * Adds a sample and drops the old ones; after a restart of magid the counts begin again. The
 * newest takes the place of the one before, unless that is APART_MS after its own predecessor: a
 * busy gateway tells its counts ten times a second.
 */
export function withSample(samples: Sample[], sample: Sample): Sample[] {
  const [before, last] = samples.slice(-2);
  const newest = last ?? before;
  if (newest !== undefined && sample.counts.ended < newest.counts.ended) return [sample];
  const isClose = before !== undefined && last !== undefined && last.at < before.at + APART_MS;
  const kept = isClose ? samples.slice(0, -1) : samples;
  return [...kept, sample].filter(({ at }) => at > sample.at - KEPT_MS);
}

/** The rates over the last `span` milliseconds before `now`; undefined without a sample. */
export function rates(samples: Sample[], now: number, span: number): Rates | undefined {
  const last = samples.findLast(({ at }) => at <= now);
  if (last === undefined) return undefined;
  const first = samples.findLast(({ at }) => at <= now - span) ?? samples[0] ?? last;
  const seconds = span / 1000;
  return {
    requests: (last.counts.ended - first.counts.ended) / seconds,
    tokens: (last.counts.answerTokens - first.counts.answerTokens) / seconds,
  };
}
