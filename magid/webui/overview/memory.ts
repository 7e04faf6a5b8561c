// Who holds how much memory, of each GPU and of the machine. Pure.
import type { Gpu, Model, Server } from "../api/types.ts";
import type { Segment } from "../parts/memory_bar.tsx";
import type { Live } from "../stream/state.ts";

export interface MemoryUse {
  key: string;
  title: string;
  detail: string;
  total: number;
  segments: Segment[];
}

/** One for each GPU whose size is known, then one for the machine's own memory. */
export function memoryUses(live: Live): MemoryUse[] {
  const models = live.registry.models;
  const gpus = live.gpus.gpus
    .filter((gpu) => gpu.totalBytes !== null)
    .map((gpu) => ({
      key: gpu.name,
      title: gpu.name,
      detail: gpu.description,
      total: gpu.totalBytes ?? 0,
      segments: onGpu(gpu, models),
    }));
  const total = live.memory.totalBytes;
  return total === null ? gpus : [...gpus, ofMachine(live, total)];
}

function onGpu(gpu: Gpu, models: Record<string, Model>): Segment[] {
  const held = gpu.servers.map(({ modelId, needBytes }) => ({
    label: nameOf(modelId, models),
    bytes: needBytes ?? 0,
    kind: "model" as const,
  }));
  const known = held.reduce((sum, segment) => sum + segment.bytes, 0);
  const others = gpu.othersBytes ?? Math.max(0, (gpu.usedBytes ?? 0) - known);
  return [...together(held), ...segment("Other programs", others)];
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
    segments: [...together(held), ...segment("Other programs", used - known)],
  };
}

const SHOWN = 6; // more would be slivers; the rest stands together

/** Adds up the servers of one model, the largest first, and the small ones beyond `SHOWN`. */
function together(segments: Segment[]): Segment[] {
  const sums = new Map<string, number>();
  for (const { label, bytes } of segments) sums.set(label, (sums.get(label) ?? 0) + bytes);
  const sorted = [...sums].sort(([, one], [, other]) => other - one);
  const shown = sorted.slice(0, SHOWN).map(([label, bytes]) => model(label, bytes));
  const rest = sorted.slice(SHOWN);
  const left = rest.reduce((sum, [, bytes]) => sum + bytes, 0);
  return rest.length === 0 ? shown : [...shown, model(`${rest.length} more models`, left)];
}

const model = (label: string, bytes: number): Segment => ({ label, bytes, kind: "model" });

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
