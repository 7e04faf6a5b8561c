import assert from "node:assert/strict";
import { test } from "node:test";

import { gpuUses } from "../overview/memory.ts";
import type { Live } from "../stream/state.ts";

const holder = (modelId: string, needBytes: number | null, ...kinds: (number | null)[]) => ({
  modelId, needBytes, modelBytes: kinds[0] ?? null, contextBytes: kinds[1] ?? null,
});

function segments(...servers: ReturnType<typeof holder>[]) {
  const gpu = { name: "CUDA0", description: "", totalBytes: 100, usedBytes: 60, othersBytes: 5 };
  const live = { gpus: { gpus: [{ ...gpu, servers }] }, registry: { models: {} }, servers: {} };
  return gpuUses(live as unknown as Live)[0]?.segments ?? [];
}

test("the memory of a model by kind, and that of others", () => {
  assert.deepEqual(segments(holder("a", 10, 6, 2), holder("b", 20)), [
    { label: "b", bytes: 20, kind: "model", kinds: undefined },
    { label: "a", bytes: 10, kind: "model", kinds: { weights: 6, context: 2, compute: 2 } },
    { label: "Other programs", bytes: 5, kind: "other" },
  ]);
});

test("servers of one model stand together, by kind only if all are known", () => {
  assert.deepEqual(segments(holder("a", 10, 6, 2), holder("a", 10, 6, 2))[0], {
    label: "a", bytes: 20, kind: "model", kinds: { weights: 12, context: 4, compute: 4 },
  });
  assert.equal(segments(holder("a", 10, 6, 2), holder("a", 10))[0]?.kinds, undefined);
  const many = Array.from({ length: 8 }, (_, at) => holder(`m${at}`, 10 - at, 1, 1));
  const rest = segments(...many).at(-2);
  assert.deepEqual([rest?.label, rest?.bytes, rest?.kinds?.weights], ["2 more models", 7, 2]);
});
