// The rows of the list of models: what is known of each, joined; searched, filtered, sorted. Pure.
import type { Model, Server, ServerState } from "../api/types.ts";
import { memoryOf, placeOf } from "../overview/memory.ts";
import { byName } from "../parts/format.ts";
import type { ShownState } from "../parts/state.tsx";
import type { Sorting } from "../parts/table.tsx";
import type { Live } from "../stream/state.ts";

export interface Row {
  id: string;
  model: Model;
  servers: Server[];
  state: ShownState;
  why: string;
  place: string;
  memory: number | null;
  uptime: number | null;
  isPinned: boolean;
}

export interface Filter {
  text: string;
  tier: string; // empty: all
  state: "" | "running" | "down" | "trouble" | "disabled";
  kind: string; // empty: all
  fits: string; // empty: all
}

/** The state that matters most stands for all servers of a model. */
const WEIGHT: ServerState[] = [
  "failed", "backoff", "starting", "loading", "stopping", "ready", "stopped",
];

/**
 * The row of each model: those of `before` first and in their order, so that sorting them again
 * costs little. A row of which nothing has changed is the same object, and so is the whole list.
 */
export function rowsOf(live: Live, pins: ReadonlySet<string>, before: Row[] = []): Row[] {
  const { models } = live.registry;
  const servers = serversOf(live);
  const kept = new Map(before.map((row) => [row.id, row]));
  const row = (id: string, model: Model) =>
    renewed(kept.get(id), model, servers.get(id) ?? [], pins.has(id));
  const old = before.flatMap(({ id }) => (models[id] ? [row(id, models[id])] : []));
  const added = Object.entries(models).filter(([id]) => !kept.has(id));
  const isSame =
    added.length === 0 &&
    old.length === before.length &&
    old.every((one, index) => one === before[index]);
  return isSame ? before : [...old, ...added.map(([id, model]) => row(id, model))];
}

function serversOf(live: Live): Map<string, Server[]> {
  const servers = new Map<string, Server[]>();
  for (const server of Object.values(live.servers)) {
    const known = servers.get(server.modelId);
    if (known) known.push(server);
    else servers.set(server.modelId, [server]);
  }
  return servers;
}

function renewed(old: Row | undefined, model: Model, servers: Server[], isPinned: boolean): Row {
  const isSame =
    old?.model === model &&
    old.isPinned === isPinned &&
    old.servers.length === servers.length &&
    old.servers.every((server, index) => server === servers[index]);
  return isSame ? old : rowOf(model, servers, isPinned);
}

export function rowOf(model: Model, servers: Server[], isPinned: boolean): Row {
  const weightiest = servers.toSorted(
    (one, other) => WEIGHT.indexOf(one.state) - WEIGHT.indexOf(other.state),
  )[0];
  const running = servers.filter((server) => server.isRunning);
  return {
    id: model.modelId,
    model,
    servers,
    state: stateOf(model, weightiest),
    why: weightiest?.stateReason ?? "",
    place: running[0] === undefined ? "–" : placeOf(running[0]),
    memory: memoryOf(running),
    uptime: running.length === 0 ? null : Math.max(...running.map((s) => s.uptimeSeconds)),
    isPinned,
  };
}

function stateOf(model: Model, server: Server | undefined): ShownState {
  if (server !== undefined && server.state !== "stopped") return server.state;
  if (server?.stateReason.startsWith("waits for its turn")) return "queued";
  if (!model.enabled) return "off";
  return model.start === "on-demand" ? "asleep" : "stopped";
}

const GROUPS: Record<Filter["state"], (state: ShownState) => boolean> = {
  "": () => true,
  running: (state) => ["ready", "loading", "starting", "stopping", "queued"].includes(state),
  down: (state) => ["stopped", "asleep"].includes(state),
  trouble: (state) => ["failed", "backoff"].includes(state),
  disabled: (state) => state === "off",
};

export function filtered(rows: Row[], filter: Filter): Row[] {
  const words = filter.text.toLowerCase().split(/\s+/).filter(Boolean);
  return rows.filter(
    ({ model, state }) =>
      (filter.tier === "" || model.effectiveTier === filter.tier) &&
      (filter.kind === "" || model.kind === filter.kind) &&
      (filter.fits === "" || FITTING[filter.fits]?.includes(model.memory.fits)) &&
      GROUPS[filter.state](state) &&
      words.every((word) => textOf(model).includes(word)),
  );
}

/** What the filter's words mean. */
const FITTING: Record<string, Model["memory"]["fits"][]> = {
  yes: ["yes", "tight"],
  part: ["part"],
  no: ["no"],
  unknown: ["unknown"],
};

function textOf(model: Model): string {
  const { displayName, modelId, filename, architecture } = model;
  return `${displayName} ${modelId} ${filename} ${architecture}`.toLowerCase();
}

type Key = (row: Row) => string | number;

const KEYS: Record<string, Key> = {
  name: ({ model }) => model.displayName,
  state: ({ state }) => ORDER.indexOf(state),
  tier: ({ model }) => ["fast", "balanced", "powerful"].indexOf(model.effectiveTier),
  place: ({ place }) => place,
  size: ({ model }) => model.sizeBytes,
  memory: ({ memory }) => memory ?? -1,
  fits: ({ model }) => ["yes", "tight", "part", "unknown", "no"].indexOf(model.memory.fits),
  context: ({ model }) => model.ctxSize ?? model.contextLength ?? -1,
  uptime: ({ uptime }) => uptime ?? -1,
};
const ORDER: ShownState[] = [
  "failed", "backoff", "starting", "loading", "queued", "stopping", "ready", "asleep", "stopped",
  "off",
];

/** Pinned models come first, in each order. */
export function sorted(rows: Row[], { key, isDescending }: Sorting): Row[] {
  const value = KEYS[key] ?? KEYS.name;
  if (value === undefined) return rows;
  const sign = isDescending ? -1 : 1;
  return rows.toSorted(
    (one, other) =>
      Number(other.isPinned) - Number(one.isPinned) ||
      sign * compare(value(one), value(other)) ||
      byName(one.id, other.id),
  );
}

function compare(one: string | number, other: string | number): number {
  if (one === other) return 0;
  return typeof one === "number" && typeof other === "number"
    ? one - other
    : byName(String(one), String(other));
}
