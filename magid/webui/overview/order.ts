// In which order servers are listed: what needs a person first, then what moves, then what runs.
import type { Server, ServerState } from "../api/types.ts";

const ORDER: ServerState[] = [
  "failed", "backoff", "starting", "loading", "stopping", "ready", "stopped",
];

/** Servers that run, are about to, or have failed. Pure. */
export function listed(servers: Record<number, Server>): Server[] {
  return Object.values(servers)
    .filter(({ state }) => state !== "stopped")
    .sort(
      (one, other) =>
        ORDER.indexOf(one.state) - ORDER.indexOf(other.state) ||
        one.displayName.localeCompare(other.displayName) ||
        one.port - other.port,
    );
}
