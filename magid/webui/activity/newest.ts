// What to ask for, and what an answer adds to the list of requests. Pure.
import type { GatewayRequest } from "../api/types.ts";
import type { RequestCounts } from "../stream/state.ts";
import { isRunning } from "./requests.ts";

export const KEPT = 1200; // that magid keeps: 1,000 that ended, 200 that were not routed
const OVERLAP = 20; // requests that are known already; one is enough to see that none is missing

/** How many requests have come to an end, routed or not. */
export const overOf = ({ ended, refused }: RequestCounts): number => ended + refused;

/** How many of the newest requests to ask for, where so many were over at the last question. */
export function wanted(now: RequestCounts | undefined, overThen: number | undefined): number {
  const over = now && overOf(now);
  if (over === undefined || overThen === undefined || over < overThen) return KEPT;
  return Math.min(KEPT, (now?.running ?? 0) + over - overThen + OVERLAP);
}

/**
 * The list after an answer to a question for the newest `limit`: those under way, then those that
 * ended, the newest first. What was known of a request that had ended stays the same object.
 * Undefined where requests may lie between the answer and what was known. Pure.
 */
export function merged(
  known: GatewayRequest[],
  answer: GatewayRequest[],
  limit: number,
): GatewayRequest[] | undefined {
  const ended = new Map(known.filter((one) => !isRunning(one)).map((one) => [one.id, one]));
  const fresh = answer.map((one) => ended.get(one.id) ?? one);
  if (answer.length < limit || limit >= KEPT) return fresh;
  const oldest = answer.at(-1);
  if (oldest === undefined || !ended.has(oldest.id)) return undefined;
  for (const { id } of fresh) ended.delete(id);
  return [...fresh, ...ended.values()].slice(0, KEPT);
}
