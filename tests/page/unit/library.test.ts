import assert from "node:assert/strict";
import { test } from "node:test";

import type { Download, Model, ModelOrigin, Variant } from "../api/types.ts";
import {
  downloadAt,
  downloadFrom,
  downloadOf,
  finished,
  modelOf,
  pageOf,
  roomFor,
  share,
  shortName,
  sourceOf,
  stateOf,
  unfinished,
  verbsFor,
} from "../library/progress.ts";

const download = (more: object) =>
  ({ id: "x", repository: "org/Tiny", tag: "", file: "", state: "queued", files: [],
    doneBytes: 0, totalBytes: 0, createdAt: "2026-01-01", ...more }) as unknown as Download;

const variant = (more: object) =>
  ({ name: "Q8_0", file: "tiny-Q8_0.gguf", fits: "gpu", sizeBytes: 100, ...more }) as Variant;

test("what a download may be asked depends on its state", () => {
  const verbs = (state: string) => verbsFor(download({ state }));
  assert.deepEqual(verbs("downloading"), ["pause", "cancel"]);
  assert.deepEqual(verbs("paused"), ["resume", "cancel"]);
  assert.deepEqual(verbs("failed"), ["resume", "remove"]);
  assert.deepEqual(verbs("done"), ["remove"]);
  assert.equal(stateOf(download({ state: "of tomorrow" })), "queued");
});

test("how far it is, once there are sizes", () => {
  assert.equal(share(download({})), undefined);
  assert.equal(share(download({ doneBytes: 1, totalBytes: 4 })), 0.25);
  assert.equal(share(download({ doneBytes: 9, totalBytes: 4 })), 1);
});

test("a download is called by its file, its tag or its repository", () => {
  assert.equal(shortName(download({ file: "sub/tiny-Q8_0.gguf" })), "tiny-Q8_0");
  assert.equal(shortName(download({ tag: "Q8_0" })), "Tiny:Q8_0");
  assert.equal(shortName(download({})), "Tiny");
});

test("those under way come first, then the newest", () => {
  const all = Object.fromEntries(
    [
      download({ id: "old", createdAt: "1" }),
      download({ id: "new", createdAt: "2" }),
      download({ id: "paused", state: "paused", createdAt: "3" }),
      download({ id: "done", state: "done" }),
    ].map((one) => [one.id, one]),
  );
  assert.deepEqual(unfinished(all).map(({ id }) => id), ["new", "old", "paused"]);
  assert.deepEqual(finished(all).map(({ id }) => id), ["done"]);
});

test("a variant is here when a model has its file", () => {
  const path = "/models/org/Tiny/tiny-Q8_0.gguf";
  const models = { m: { modelId: "m", filePath: path, files: [path] } as unknown as Model };
  const found = (library: string | null, file: string) =>
    modelOf(models, library, "org/Tiny", file)?.modelId;
  assert.equal(found("/models", "tiny-Q8_0.gguf"), "m");
  assert.equal(found("/models/", "tiny-Q8_0.gguf"), "m");
  assert.equal(found("/models", "tiny-F16.gguf"), undefined);
  assert.equal(found(null, "tiny-Q8_0.gguf"), undefined);
});

test("a variant's download is found under whatever name it was asked for", () => {
  const files = [{ path: "tiny-Q8_0.gguf", sizeBytes: 1, doneBytes: 0 }];
  const found = (more: object) =>
    downloadOf({ x: download(more) }, "org/Tiny", variant({})) !== undefined;
  assert.ok(found({ file: "tiny-Q8_0.gguf" }));
  assert.ok(found({ tag: "Q8_0", files }));
  assert.ok(!found({ tag: "Q8_0", files, state: "done" }));
  assert.ok(!found({ files, repository: "org/Other" }));
});

test("the download that was started is followed, not an older one of the same text", () => {
  const [source, state] = ["org/Tiny:Q8_0", "done"];
  const draft = download({ id: "draft", source, state, createdAt: "2" });
  const old = download({ id: "x", source, state, createdAt: "1" });
  const answer = download({ id: "x", source, createdAt: "4" });
  const running = { ...answer, createdAt: "3" }; // its process was there before the answer
  const done = { ...running, state };
  const started = { answer, replaced: old };
  const of = (x: Download) => downloadFrom({ draft, x }, source, started);
  assert.equal(downloadFrom({ draft, x: old }, source), draft);
  assert.equal(downloadFrom({ x: old, draft }, source), draft);
  assert.equal(of(old), answer); // the stream has not told of it yet
  assert.equal(of(running), running);
  assert.equal(of(done), done);
  assert.equal(downloadFrom({ draft }, source, started), undefined);
  assert.equal(downloadFrom({ x: old }, source, { answer: old, replaced: undefined }), old);
});

test("where it would run, unless the disk is too small", () => {
  assert.equal(roomFor(variant({}), undefined), "gpu");
  assert.equal(roomFor(variant({ fits: "memory" }), 100), "memory");
  assert.equal(roomFor(variant({ fits: "of tomorrow" }), 100), "no");
  assert.equal(roomFor(variant({}), 99), "disk");
});

test("exactly this variant is downloaded", () => {
  assert.equal(sourceOf("org/Tiny", "main", variant({})), "org/Tiny/tiny-Q8_0.gguf");
  assert.equal(sourceOf("org/Tiny", "v1", variant({})), "org/Tiny/tiny-Q8_0.gguf@v1");
});

test("a part belongs to the download whose folder it is in", () => {
  const tiny = download({ id: "tiny-0badcafe" });
  const at = (path: string) => downloadAt({ [tiny.id]: tiny }, path);
  assert.equal(at("/models/.downloads/tiny-0badcafe/0.part"), tiny);
  assert.equal(at("/models/org/tiny.gguf.aria2"), undefined);
  for (const name of ["other", "constructor", "__proto__"]) {
    assert.equal(at(`/models/.downloads/${name}/0.part`), undefined);
  }
});

test("the page of a repository is one of the web, or none", () => {
  const page = (endpoint: string, repository = "org/Tiny") =>
    pageOf({ endpoint, repository, commit: "c0ffee" } as unknown as ModelOrigin);
  assert.equal(page("https://hub.example"), "https://hub.example/org/Tiny/tree/c0ffee");
  assert.equal(page("http://h:1/mirror/"), "http://h:1/mirror/org/Tiny/tree/c0ffee");
  assert.equal(page("https://h", "org/<b>?x#y"), "https://h/org/%3Cb%3E%3Fx%23y/tree/c0ffee");
  assert.equal(page("javascript:alert(1)"), undefined);
  assert.equal(page("nothing"), undefined);
});
