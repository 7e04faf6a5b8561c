import assert from "node:assert/strict";
import { test } from "node:test";

import type { Model, Server } from "../api/types.ts";
import { filtered, rowsOf, sorted, type Filter, type Row } from "../models/rows.ts";
import { changes, kindOf, parsed, shown, titleOf } from "../models/settings_form.ts";
import { bytes, duration, span } from "../parts/format.ts";
import { parsed as routeOf, to } from "../shell/route.ts";
import type { Live } from "../stream/state.ts";

const model = (modelId: string, more: Partial<Model> = {}): Model =>
  ({
    modelId,
    displayName: modelId.toUpperCase(),
    filename: `${modelId}.gguf`,
    architecture: "llama",
    kind: "chat",
    enabled: true,
    effectiveTier: "fast",
    start: "always",
    sizeBytes: 1,
    memory: { fits: "unknown", why: "", need: null, source: null },
    ...more,
  }) as Model;

const server = (port: number, modelId: string, more: Partial<Server>): Server =>
  ({
    port, modelId, stateReason: "", isRunning: true, uptimeSeconds: port, memoryBytes: port,
    placement: null, ...more,
  }) as Server;

const MODELS = [
  model("alpha"),
  model("beta", { enabled: false, effectiveTier: "powerful" }),
  model("gamma10", { start: "on-demand" }),
  model("gamma9", {
    kind: "embedding",
    memory: { fits: "tight", why: "", need: null, source: "predicted" },
  }),
];
const SERVERS = [
  server(1, "alpha", { state: "ready" }),
  server(2, "alpha", { state: "failed", stateReason: "killed", isRunning: false }),
  server(3, "gamma9", {
    state: "stopped", stateReason: "waits for its turn to load", isRunning: false,
  }),
];
const LIVE = {
  registry: { models: Object.fromEntries(MODELS.map((one) => [one.modelId, one])) },
  servers: Object.fromEntries(SERVERS.map((one) => [one.port, one])),
} as unknown as Live;

const rows = (pins: string[] = []): Row[] => rowsOf(LIVE, new Set(pins));
const ids = (list: Row[]): string[] => list.map(({ id }) => id);

test("the state that matters most stands for a model", () => {
  const states = Object.fromEntries(rows().map(({ id, state }) => [id, state]));
  assert.deepEqual(states, { alpha: "failed", beta: "off", gamma10: "asleep", gamma9: "queued" });
  assert.equal(rows()[0]?.why, "killed");
});

test("a row of which nothing has changed is the same, and so is a list of such rows", () => {
  const before = sorted(rows(), { key: "name", isDescending: true });
  assert.equal(rowsOf(LIVE, new Set(), before), before);
  const { registry, servers } = LIVE;
  const models = { ...registry.models, beta: model("beta"), delta: model("delta") };
  delete models.gamma10;
  const changed = { registry: { models }, servers } as unknown as Live;
  const now = rowsOf(changed, new Set(), before);
  assert.deepEqual(ids(now), ["gamma9", "beta", "alpha", "delta"]);
  assert.deepEqual(now.map((row) => before.includes(row)), [true, false, true, false]);
  const moved = { registry, servers: { ...servers, 1: server(1, "alpha", { state: "stopping" }) } };
  const after = rowsOf(moved as unknown as Live, new Set(["beta"]), before);
  const added = after.filter((row) => !before.includes(row));
  assert.deepEqual(ids(added), ["beta", "alpha"]);
});

test("search and filters", () => {
  const all: Filter = { text: "", tier: "", state: "", kind: "", fits: "" };
  const found = (filter: Partial<Filter>) => ids(filtered(rows(), { ...all, ...filter }));
  assert.deepEqual(found({ text: "GAM  10" }), ["gamma10"]);
  assert.deepEqual(found({ tier: "powerful" }), ["beta"]);
  assert.deepEqual(found({ fits: "yes" }), ["gamma9"]);
  assert.deepEqual(found({ state: "trouble" }), ["alpha"]);
  assert.deepEqual(found({ state: "running" }), ["gamma9"]);
  assert.deepEqual(found({ kind: "embedding", text: "x" }), []);
});

test("sorted by numbers within names, pinned ones first", () => {
  const by = (key: string, isDescending = false) =>
    ids(sorted(rows(["beta"]), { key, isDescending }));
  assert.deepEqual(by("name"), ["beta", "alpha", "gamma9", "gamma10"]);
  assert.deepEqual(by("state", true), ["beta", "gamma10", "gamma9", "alpha"]);
  assert.deepEqual(by("nothing"), ["beta", "alpha", "gamma9", "gamma10"]);
});

const WHOLE = { description: "", anyOf: [{ type: "integer" }, { type: "null" }] };
const WORDS = { description: "", anyOf: [{ type: "array" }, { type: "null" }] };
const CHOICE = { description: "", anyOf: [{ type: "string", enum: ["a"] }] };

test("the fields of a form", () => {
  assert.deepEqual([WHOLE, WORDS, CHOICE].map(kindOf), ["whole", "words", "choice"]);
  assert.deepEqual(["nGpuLayers", "ctxSize", "start"].map(titleOf), [
    "GPU layers", "Context size", "Start",
  ]);
  assert.equal(parsed("24G", "whole"), 24 * 2 ** 30);
  assert.equal(parsed(" -1 ", "whole"), -1);
  assert.equal(parsed("", "whole"), null);
  assert.throws(() => parsed("1.5", "whole"));
  assert.throws(() => parsed("9".repeat(20), "whole"));
});

test("words come back as they were", () => {
  for (const words of [["--temp", "0.2"], ["a b", "c"], ['say "x"', "back\\slash", "it's"]]) {
    assert.deepEqual(parsed(shown(words), "words"), words);
  }
  assert.deepEqual(parsed(`--x 'a b'`, "words"), ["--x", "a b"]);
  assert.throws(() => parsed(`--x "a`, "words"));
});

test("only what differs is sent", () => {
  const before = { ctxSize: 512, extraArgs: ["--x"] };
  const schemas = { ctxSize: WHOLE, extraArgs: WORDS };
  const fields = { ctxSize: "512", extraArgs: "", other: "1" };
  assert.deepEqual(changes(fields, before, schemas), { extraArgs: null });
  assert.throws(() => changes({ ctxSize: "many" }, before, schemas), { key: "ctxSize" });
});

test("sizes and times", () => {
  assert.deepEqual([0, 999, 1023, 4508876800, 2 ** 40].map(bytes), [
    "0 B", "999 B", "1.0 KiB", "4.2 GiB", "1.0 TiB",
  ]);
  assert.deepEqual([5, 61, 3725, 90_000, null].map(duration), [
    "5 s", "1 min", "1 h 2 min", "1 d 1 h", "–",
  ]);
  assert.deepEqual([0.0421, 1.26, 60].map(span), ["42 ms", "1.3 s", "1 min"]);
});

test("addresses of views", () => {
  assert.deepEqual(routeOf(""), { view: "overview", rest: [] });
  assert.deepEqual(routeOf(to("models", "a/b%")), { view: "models", rest: ["a/b%"] });
  assert.deepEqual(routeOf("#/models/%zz"), { view: "models", rest: ["%zz"] });
});
