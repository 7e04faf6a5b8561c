import assert from "node:assert/strict";
import { test } from "node:test";

import type { Server } from "../api/types.ts";
import { rates, withSample, type Sample } from "../stream/rates.ts";
import { applied, type Live } from "../stream/state.ts";

const server = (port: number, state: string) =>
  ({ port, modelId: `m${port}`, state, memoryBytes: 1, uptimeSeconds: 1 }) as unknown as Server;

const SNAPSHOT = {
  registry: { models: { a: { modelId: "a" }, b: { modelId: "b" } }, scanPath: "/x" },
  servers: { servers: [server(1, "ready"), server(2, "loading")] },
  downloads: { downloads: [{ id: "a", state: "paused" }], library: "/models" },
  profiles: ["one"],
  phase: "starting",
  memory: { totalBytes: 8, availableBytes: 4 },
};

const start = (): Live => {
  const live = applied(undefined, { kind: "snapshot", data: structuredClone(SNAPSHOT) });
  assert.ok(live);
  return live;
};

const after = (kind: string, data: object): Live => {
  const live = applied(start(), { kind, data: data as Record<string, unknown> });
  assert.ok(live);
  return live;
};

test("nothing is known before the snapshot", () => {
  assert.equal(applied(undefined, { kind: "server", data: { server: server(1, "ready") } }), undefined);
});

test("servers go by their port", () => {
  assert.deepEqual(Object.keys(start().servers), ["1", "2"]);
  assert.equal(after("server", { server: server(2, "ready") }).servers[2]?.state, "ready");
  assert.deepEqual(Object.keys(after("serverRemoved", { port: 1 }).servers), ["2"]);
});

test("models are merged, removed, and the rest of the registry replaced", () => {
  const change = { models: { c: { modelId: "c" } }, removed: ["a"], registry: { scanPath: "/y" } };
  const { registry } = after("registry", change);
  assert.deepEqual(Object.keys(registry.models), ["b", "c"]);
  assert.equal(registry.scanPath, "/y");
});

test("downloads go by their id", () => {
  assert.deepEqual(start().downloads, { a: { id: "a", state: "paused" } });
  assert.equal(start().library, "/models");
  const { downloads } = after("download", { download: { id: "b", state: "queued" } });
  assert.deepEqual(Object.keys(downloads), ["a", "b"]);
  assert.equal(after("download", { download: { id: "a", state: "done" } }).downloads.a?.state, "done");
  assert.deepEqual(after("downloadRemoved", { id: "a" }).downloads, {});
});

test("whether models fit", () => {
  const models = { a: { fits: "no" }, gone: { fits: "yes" } };
  const { registry } = after("memory", { models });
  assert.deepEqual(Object.keys(registry.models), ["a", "b"]);
  assert.equal(registry.models.a?.memory.fits, "no");
});

test("figures of a server that has gone, or of another model, change nothing", () => {
  const memory = { totalBytes: 8, availableBytes: 1 };
  const figures = [
    { port: 1, modelId: "m1", memoryBytes: 7, cpuSeconds: 1, uptimeSeconds: 9 },
    { port: 2, modelId: "other", memoryBytes: 7, cpuSeconds: 1, uptimeSeconds: 9 },
    { port: 3, modelId: "m3", memoryBytes: 7, cpuSeconds: 1, uptimeSeconds: 9 },
  ];
  const live = after("figures", { servers: figures, memory });
  assert.deepEqual(Object.values(live.servers).map((one) => one.memoryBytes), [7, 1]);
  assert.equal(live.memory.availableBytes, 1);
});

test("a status replaces what it names and nothing else", () => {
  const live = after("phase", { phase: "serving", ready: true });
  assert.equal(live.phase, "serving");
  assert.deepEqual(live.profiles, ["one"]);
});

const sample = (at: number, ended: number, answerTokens: number): Sample => ({
  at,
  counts: { running: 0, waiting: 0, ended, promptTokens: 0, answerTokens },
});

test("rates are differences over time", () => {
  const samples = [sample(0, 10, 100), sample(5_000, 20, 600)];
  assert.deepEqual(rates(samples, 10_000, 10_000), { requests: 1, tokens: 50 });
  assert.deepEqual(rates(samples, 4_000, 5_000), { requests: 0, tokens: 0 });
  assert.equal(rates([], 1, 1), undefined);
});

test("counts that begin again are a magid that has started again", () => {
  const samples = withSample([sample(0, 10, 100)], sample(1, 2, 3));
  assert.deepEqual(samples.map(({ at }) => at), [1]);
  assert.equal(withSample([sample(0, 1, 1)], sample(3_600_000, 2, 2)).length, 1);
});

test("samples of a busy gateway are a second apart, and the newest is always there", () => {
  let samples: Sample[] = [];
  for (let at = 0; at <= 60_000; at += 100) samples = withSample(samples, sample(at, at, 0));
  assert.equal(samples.at(-1)?.at, 60_000);
  assert.equal(samples.length, 61);
  assert.deepEqual(rates(samples, 60_000, 10_000), { requests: 1_000, tokens: 0 });
});
