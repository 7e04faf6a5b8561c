import assert from "node:assert/strict";
import { test } from "node:test";

import { chosen, outcomeOf, outcomesOf, toCsv } from "../activity/requests.ts";
import { answered, asked } from "../activity/texts.ts";
import type { GatewayRequest, Plan } from "../api/types.ts";
import { partOf, split } from "../chat/answer_stream.ts";
import { blocks, inline } from "../chat/prose.ts";
import { listed, shownConditions } from "../overview/order.ts";
import { linePath } from "../overview/points.ts";
import { needOf } from "../profiles/need.ts";
import type { Live } from "../stream/state.ts";

// -- overview -----------------------------------------------------------------------------------

test("a line begins with what is known, and ends at the right", () => {
  assert.equal(linePath([null, 0, 2, 4]), "M1,38.0h0L2,20.0L3,2.0");
  assert.equal(linePath([0.5]), "M0,20.0h0"); // below 1, so that little does not look like much
  assert.equal(linePath([null, null]), "");
});

test("a line is interrupted where nothing is known, and a value alone is a dot", () => {
  assert.equal(linePath([0, 4, null, 2, null, 4, 0]), "M0,38.0h0L1,2.0M3,20.0h0M5,2.0h0L6,38.0");
});

const SERVERS = [
  { port: 1, modelId: "a", displayName: "B10", state: "ready" },
  { port: 2, modelId: "b", displayName: "B2", state: "ready" },
  { port: 3, modelId: "c", displayName: "C", state: "loading" },
  { port: 4, modelId: "d", displayName: "D", state: "failed" },
  { port: 5, modelId: "e", displayName: "E", state: "stopped" },
];
const OVERVIEW = { servers: Object.fromEntries(SERVERS.map((one) => [one.port, one])) };

test("servers that need a person come first, then those that move", () => {
  const { servers } = OVERVIEW as unknown as Live;
  assert.deepEqual(listed(servers).map(({ port }) => port), [4, 3, 2, 1]);
});

test("a start under way is no condition that needs a person", () => {
  const conditions = [
    { code: "NotServing", modelIds: [] },
    { code: "ServerDown", modelIds: ["c"] },
    { code: "ServerDown", modelIds: ["d"] },
    { code: "ModelsStopped", modelIds: ["e"] },
  ];
  const shown = shownConditions({ ...OVERVIEW, conditions } as unknown as Live);
  assert.deepEqual(shown, conditions.slice(2));
});

// -- profiles -----------------------------------------------------------------------------------

test("what a plan needs", () => {
  const model = (devicesBytes: number | null) => ({
    memory: { need: devicesBytes === null ? null : { devicesBytes, hostBytes: 1 } },
  });
  const live = {
    gpus: { gpus: [{ totalBytes: 10 }, { totalBytes: null }] },
    memory: { totalBytes: 99 },
    registry: { models: { a: model(3), b: model(4), c: model(null) } },
  } as unknown as Live;
  const plan = (...ids: string[]) =>
    ({ start: ids.map((modelId) => ({ modelId })), keep: [{ modelId: "a" }] }) as unknown as Plan;
  assert.deepEqual(needOf(plan("b"), live), { total: 7, room: 10, isPart: false });
  assert.deepEqual(needOf(plan("b", "c"), live), { total: 7, room: 10, isPart: true });
});

// -- chat ---------------------------------------------------------------------------------------

test("events are split where they end, whatever the chunks are", () => {
  const { data, rest } = split('data: {"a":1}\n\n: comment\n\ndata: x\r\n\r\ndata: ha');
  assert.deepEqual(data, ['{"a":1}', "x"]);
  assert.equal(rest, "data: ha");
});

test("what an event of an answer says", () => {
  const delta = (content: object) => JSON.stringify({ choices: [{ delta: content }] });
  assert.equal(partOf("[DONE]"), undefined);
  assert.equal(partOf("{"), undefined);
  assert.deepEqual(partOf(delta({ content: "a" })), { text: "a", reasoning: "" });
  assert.deepEqual(partOf(delta({ reasoning_content: "b" })), { text: "", reasoning: "b" });
  assert.deepEqual(partOf('{"error":{"message":"no"}}'), { error: "no" });
  const timings = { choices: [], timings: { predicted_n: 3, predicted_per_second: 7 } };
  assert.deepEqual(partOf(JSON.stringify(timings))?.timings, { tokens: 3, perSecond: 7 });
});

test("an answer is paragraphs, lists, headings and code", () => {
  const text = "# Title\nOne\ntwo\n- a\n- b\n  c\n\n```py\nx = 1\n\ny\n```\nEnd\n~~~\nopen";
  assert.deepEqual(
    blocks(text).map((block) => [block.kind, "text" in block ? block.text : ""]),
    [
      ["heading", ""], ["paragraph", ""], ["list", ""], ["code", "x = 1\n\ny"], ["paragraph", ""],
      ["code", "open"],
    ],
  );
});

test("code and strong within a line; markup is text", () => {
  assert.deepEqual(inline("a `b` **c** <b>d</b>"), [
    { kind: "text", text: "a " },
    { kind: "code", text: "b" },
    { kind: "text", text: " " },
    { kind: "strong", text: "c" },
    { kind: "text", text: " <b>d</b>" },
  ]);
  assert.deepEqual(inline("2 ** 3 ` open"), [{ kind: "text", text: "2 ** 3 ` open" }]);
});

// -- activity -----------------------------------------------------------------------------------

const request = (id: string, more: Partial<GatewayRequest>) =>
  ({ id, model: "auto", outcome: "ok", status: null, ...more }) as GatewayRequest;

test("requests are searched and filtered", () => {
  const all = [request("1", { token: "Kim" }), request("2", { outcome: "failed", error: "x" })];
  const found = (text: string, outcome: string) =>
    chosen(all, { text, outcome }).map(({ id }) => id);
  assert.deepEqual(found("kim", ""), ["1"]);
  assert.deepEqual(found("", "failed"), ["2"]);
  assert.deepEqual(found("kim", "failed"), []);
});

test("an outcome has its reason, and both can be chosen", () => {
  const all = [
    request("1", { status: 200 }),
    request("2", { outcome: "refused", code: "ModelNotFound", status: null }),
    request("3", { outcome: "refused", code: null, status: 400 }),
  ];
  assert.deepEqual(all.map(outcomeOf), ["ok", "refused: model not found", "refused: 400"]);
  assert.deepEqual(outcomesOf(all), [
    "ok", "refused", "refused: 400", "refused: model not found",
  ]);
  const found = (outcome: string) => chosen(all, { text: "", outcome }).map(({ id }) => id);
  assert.deepEqual(found("refused"), ["2", "3"]);
  assert.deepEqual(found("refused: 400"), ["3"]);
});

test("what was asked, in each API", () => {
  const say = (body: object) => asked(JSON.stringify(body));
  const parts = [{ type: "text", text: "<b>Hi</b>" }, { type: "image_url" }];
  assert.equal(
    say({ messages: [{ role: "system", content: "Be brief" }, { role: "user", content: parts }] }),
    "system: Be brief\n\nuser: <b>Hi</b>",
  );
  assert.equal(say({ system: "Be brief", messages: [] }), "system: Be brief");
  assert.equal(say({ input: "A text" }), "A text");
  assert.equal(say({ prompt: "A text", max_tokens: 4 }), "A text");
  assert.equal(say({ max_tokens: 4 }), '{"max_tokens":4}');
  for (const text of ['{"messages":[{"role', "null", "", "3"]) assert.equal(asked(text), text);
});

test("what was answered, in each API, whole and as a stream", () => {
  const say = (body: object) => answered(JSON.stringify(body));
  const message = { content: "Yes", reasoning_content: "Hm" };
  assert.equal(say({ choices: [{ message }] }), "(Hm)\n\nYes");
  assert.equal(say({ choices: [{ text: "Yes" }] }), "Yes");
  assert.equal(say({ content: [{ type: "text", text: "Yes" }] }), "Yes");
  assert.equal(say({ output: [{ content: [{ text: "Yes" }] }] }), "Yes");
  assert.equal(say({ data: [{ embedding: [1] }] }), '{"data":[{"embedding":[1]}]}');
  const stream = (...events: object[]) =>
    answered(events.map((event) => `data: ${JSON.stringify(event)}\n\n`).join("") + "data: [DO");
  const delta = (content: object) => ({ choices: [{ delta: content }] });
  assert.equal(
    stream(delta({ reasoning_content: "Hm" }), delta({ content: "Ye" }), delta({ content: "s" })),
    "(Hm)\n\nYes",
  );
  assert.equal(stream({ delta: { text: "Yes" } }, { type: "message_stop" }), "Yes");
  assert.equal(stream({ delta: "Ye" }, { delta: "s" }), "Yes");
  for (const text of ["", "data: {", "{"]) assert.equal(answered(text), text);
});

test("a text that is nested too deeply stays as it is", () => {
  const list = "[".repeat(100_000) + "]".repeat(100_000);
  for (const text of [`{"messages":[{"content":${list}}]}`, `{"messages":[${list}]}`]) {
    assert.equal(asked(text), text);
  }
  for (const text of [`{"content":${list}}`, `data: {"content":${list}}\n\n`]) {
    assert.equal(answered(text), text);
  }
});

test("an export holds no formula and no broken line", () => {
  const rows = toCsv([request("1", { error: '=a,"b"', route: "+x" })]).split("\r\n");
  assert.equal(rows.length, 3);
  assert.match(rows[1] ?? "", /"'=a,""b"""/);
  assert.match(rows[1] ?? "", /,'\+x,/);
});
