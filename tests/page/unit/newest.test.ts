import assert from "node:assert/strict";
import { test } from "node:test";

import { KEPT, merged, wanted } from "../activity/newest.ts";
import type { GatewayRequest } from "../api/types.ts";
import type { RequestCounts } from "../stream/state.ts";

const request = (id: number, outcome = "ok"): GatewayRequest =>
  ({ id: String(id), outcome }) as GatewayRequest;

const newest = (first: number, count: number): GatewayRequest[] =>
  Array.from({ length: count }, (_, index) => request(first - index));

const ids = (list: GatewayRequest[] | undefined) => list?.map(({ id }) => Number(id));

test("new requests come before those that are known, which stay the same objects", () => {
  const known = [request(12, "running"), ...newest(10, 8)];
  const answer = [request(13, "running"), request(12), request(11), request(10), request(9)];
  const list = merged(known, answer, 5);
  assert.deepEqual(ids(list), [13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3]);
  assert.equal(list?.[3], known[1]);
  assert.equal(list?.[10], known[8]);
  assert.notEqual(list?.[1], known[0]);
});

test("an answer that does not reach what is known says nothing of what lies between", () => {
  assert.equal(merged(newest(10, 8), newest(20, 5), 5), undefined);
  assert.equal(merged(newest(10, 8), [request(20, "running")], 1), undefined);
});

test("an answer with fewer requests than were asked for is all there are", () => {
  assert.deepEqual(ids(merged(newest(900, 50), newest(3, 3), 20)), [3, 2, 1]);
  assert.deepEqual(ids(merged([], [], 20)), []);
});

test("no more are kept than magid keeps", () => {
  const list = merged(newest(KEPT, KEPT), newest(KEPT + 5, 10), 10);
  assert.equal(list?.length, KEPT);
  assert.equal(list?.[0]?.id, String(KEPT + 5));
});

test("as many are asked for as have come, and some more; all where that is not known", () => {
  const counts = (ended: number) => ({ running: 3, ended, refused: 5 }) as RequestCounts;
  assert.equal(wanted(counts(110), 105), 33);
  assert.equal(wanted(counts(5_000), 105), KEPT);
  assert.equal(wanted(counts(5), 105), KEPT);
  assert.equal(wanted(counts(5), undefined), KEPT);
  assert.equal(wanted(undefined, 5), KEPT);
});
