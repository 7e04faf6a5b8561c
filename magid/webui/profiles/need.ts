// How much memory a plan's servers need together, as far as it was predicted. Pure.
import type { PlanLine } from "../api/types.ts";
import type { Live } from "../stream/state.ts";

export interface PlanNeed {
  total: number; // bytes, of those that start and those that are kept
  room: number; // of all GPUs; without one, of the machine
  isPart: boolean; // some models have no prediction
}

type Line = Pick<PlanLine, "modelId">;

export function needOf(plan: { start: Line[]; keep: Line[] }, live: Live): PlanNeed {
  const gpus = live.gpus.gpus.reduce((sum, gpu) => sum + (gpu.totalBytes ?? 0), 0);
  const needs = [...plan.start, ...plan.keep].map(({ modelId }) => {
    const need = live.registry.models[modelId]?.memory.need;
    return need && (gpus > 0 ? need.devicesBytes : need.hostBytes);
  });
  return {
    total: needs.reduce<number>((sum, need) => sum + (need ?? 0), 0),
    room: gpus || (live.memory.totalBytes ?? 0),
    isPart: needs.some((need) => need === null || need === undefined),
  };
}
