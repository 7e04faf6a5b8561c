// Who holds how much memory, of each GPU and of the machine. Pure.
import type { Gpu, Model, Server } from "../api/types.ts";
import type { Kinds, Segment } from "../parts/memory_bar.tsx";
import type { Live } from "../stream/state.ts";

export interface MemoryUse {
  key: string;
  title: string;
  detail: string;
  total: number;
  segments: Segment[];
}

/** A model has one colour in all bars: by the order of the names of those that run. */
function coloured(live: Live, segments: Segment[]): Segment[] {
  const names = Object.values(live.servers).map(({ displayName }) => displayName);
  const order = [...new Set(names)].sort();
  return segments.map((segment) => {
    const at = order.indexOf(segment.label);
    return at < 0 ? segment : { ...segment, colour: at };
  });
}

/** One for each GPU whose size is known, then one for the machine's own memory. */
export function memoryUses(live: Live): MemoryUse[] {
  const total = live.memory.totalBytes;
  return total === null ? gpuUses(live) : [...gpuUses(live), ofMachine(live, total)];
}

/** One for each GPU whose size is known. */
export function gpuUses(live: Live): MemoryUse[] {
  return live.gpus.gpus
    .filter((gpu) => gpu.totalBytes !== null)
    .map((gpu) => ({
      key: gpu.name,
      title: gpu.name,
      detail: gpu.description,
      total: gpu.totalBytes ?? 0,
      segments: coloured(live, onGpu(gpu, live.registry.models)),
    }));
}

function onGpu(gpu: Gpu, models: Record<string, Model>): Segment[] {
  const held = gpu.servers.map((server) => ({
    label: nameOf(server.modelId, models),
    bytes: server.needBytes ?? 0,
    kind: "model" as const,
    kinds: kindsOf(server),
  }));
  const known = held.reduce((sum, segment) => sum + segment.bytes, 0);
  const others = gpu.othersBytes ?? Math.max(0, (gpu.usedBytes ?? 0) - known);
  return [...together(held), ...segment("Other programs", others)];
}

/** What is left beside weights and context is computed with, or the driver's. */
function kindsOf({ needBytes, modelBytes, contextBytes }: Gpu["servers"][number]) {
  if (needBytes === null || modelBytes === null || contextBytes === null) return undefined;
  const compute = needBytes - modelBytes - contextBytes;
  return { weights: modelBytes, context: contextBytes, compute };
}

function ofMachine(live: Live, total: number): MemoryUse {
  const servers = Object.values(live.servers);
  const held = servers
    .filter((server) => (server.memoryBytes ?? 0) > 0)
    .map((server) => ({
      label: server.displayName,
      bytes: server.memoryBytes ?? 0,
      kind: "model" as const,
    }));
  const known = held.reduce((sum, { bytes }) => sum + bytes, 0);
  const used = total - (live.memory.availableBytes ?? total);
  return {
    key: "machine",
    title: "Machine",
    detail: "main memory",
    total,
    segments: coloured(live, [...together(held), ...segment("Other programs", used - known)]),
  };
}

const SHOWN = 6; // more would be slivers; the rest stands together

/** Adds up the servers of one model, the largest first, and the small ones beyond `SHOWN`. */
function together(segments: Segment[]): Segment[] {
  const sums = new Map<string, Segment>();
  for (const segment of segments) {
    const other = sums.get(segment.label);
    sums.set(segment.label, other ? sum(segment.label, [other, segment]) : segment);
  }
  const sorted = [...sums.values()].sort((one, other) => other.bytes - one.bytes);
  const rest = sorted.slice(SHOWN);
  const left = rest.length === 0 ? [] : [sum(`${rest.length} more models`, rest)];
  return [...sorted.slice(0, SHOWN), ...left];
}

function sum(label: string, segments: Segment[]): Segment {
  const bytes = segments.reduce((all, segment) => all + segment.bytes, 0);
  const kinds = segments.flatMap((segment) => segment.kinds ?? []);
  const isKnown = kinds.length === segments.length;
  return { label, bytes, kind: "model", kinds: isKnown ? kinds.reduce(added) : undefined };
}

const added = (one: Kinds, other: Kinds): Kinds => ({
  weights: one.weights + other.weights,
  context: one.context + other.context,
  compute: one.compute + other.compute,
});

const segment = (label: string, bytes: number): Segment[] =>
  bytes > 0 ? [{ label, bytes, kind: "other" }] : [];

function nameOf(modelId: string, models: Record<string, Model>): string {
  return models[modelId]?.displayName ?? modelId;
}

/** Where a server runs, in a word: its GPUs, the processor, or both. */
export function placeOf(server: Server): string {
  const placement = server.placement;
  if (placement === null) return "–";
  const names = placement.devices.map(({ name }) => name).join(", ");
  if (placement.extent === "own") return names || "as its settings say";
  if (names === "") return "CPU";
  return placement.extent === "part" ? `${names} + CPU` : names;
}

/** What its servers hold on GPUs where that was predicted, else the memory of their processes. */
export function memoryOf(servers: Server[]): number | null {
  const held = servers.map(
    ({ placement, memoryBytes }) =>
      placement?.devices.reduce((sum, { needBytes }) => sum + needBytes, 0) || memoryBytes,
  );
  return held.some((bytes) => bytes !== null) ? held.reduce(plus, 0) : null;
}

const plus = (total: number | null, bytes: number | null) => (total ?? 0) + (bytes ?? 0);
