// Which servers are listed, in which order, and which conditions need a person. Pure.
import type { Condition, Server, ServerState } from "../api/types.ts";
import { byName } from "../parts/format.ts";
import type { Live } from "../stream/state.ts";

const ORDER: ServerState[] = [
  "failed", "backoff", "starting", "loading", "stopping", "ready", "stopped",
];

/** Servers that run, are about to, or have failed: what needs a person first, then what moves. */
export function listed(servers: Record<number, Server>): Server[] {
  return Object.values(servers)
    .filter(({ state }) => state !== "stopped")
    .sort(
      (one, other) =>
        ORDER.indexOf(one.state) - ORDER.indexOf(other.state) ||
        byName(one.displayName, other.displayName) ||
        one.port - other.port,
    );
}

/** Conditions, but for a start under way: the phase says so, and the state of each server. */
export function shownConditions({ conditions, servers }: Live): Condition[] {
  const down = Object.values(servers)
    .filter(({ state }) => state === "failed" || state === "backoff")
    .map(({ modelId }) => modelId);
  return conditions.filter(
    ({ code, modelIds }) =>
      code !== "NotServing" &&
      (code !== "ServerDown" || modelIds.some((id) => down.includes(id))),
  );
}
