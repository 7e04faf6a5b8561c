// The one conversation of this browser, and the answer that is being written.
import { signal } from "@preact/signals";

import { ask, loadSession, session } from "../api/request.ts";
import { store, stored } from "../shell/stored.ts";
import { read, type Part, type Timings } from "./answer_stream.ts";

export interface Turn {
  role: "user" | "assistant";
  text: string;
  images?: string[]; // as data: addresses
  reasoning?: string;
  about?: { model: string; route: string };
  timings?: Timings;
  problem?: string;
}

const NAME = "chat";
const LAST_MODEL = "chat-model";
const kept = stored<unknown>(NAME, []);

export const turns = signal<Turn[]>(Array.isArray(kept) ? (kept as Turn[]) : []);
export const model = signal(stored<string>(LAST_MODEL, "auto"));
export const isBusy = signal(false);
let abort: AbortController | undefined;

export function choose(name: string): void {
  model.value = name;
  store(LAST_MODEL, name);
}

export function clear(): void {
  stop();
  turns.value = [];
  store(NAME, []);
}

/** Ends the answer under way; what has come of it stays. */
export function stop(): void {
  abort?.abort();
}

/** Images stay in memory alone: they would fill what a browser keeps. */
function keep(): void {
  store(NAME, turns.value.map(({ images, ...turn }) => turn));
}

/** Asks, and writes the answer as it comes. Raises nothing: a problem stands in the answer. */
export async function send(text: string, images: string[]): Promise<void> {
  const question: Turn = { role: "user", text, ...(images.length > 0 && { images }) };
  const asked = [...turns.peek(), question];
  abort = new AbortController();
  isBusy.value = true;
  let answer: Turn = { role: "assistant", text: "" };
  const change = (more: Partial<Turn>) => {
    answer = { ...answer, ...more };
    turns.value = [...asked, answer];
  };
  change({});
  try {
    const reply = await ask("POST", "v1/chat/completions", {
      body: { model: model.peek(), stream: true, messages: asked.map(message) },
      signal: abort.signal,
    });
    change({ about: aboutOf(reply.headers) });
    const isCaptured = reply.headers.has("X-Magi-Captured");
    if (isCaptured !== Boolean(session.peek()?.capturedUntil)) void loadSession();
    if (reply.body) await read(reply.body, (part) => change(withPart(answer, part)));
  } catch (error) {
    if (!abort.signal.aborted) change({ problem: (error as Error).message });
  } finally {
    isBusy.value = false;
    keep();
  }
}

function aboutOf(headers: Headers): NonNullable<Turn["about"]> {
  return { model: headers.get("X-Magi-Model") ?? "", route: headers.get("X-Magi-Route") ?? "" };
}

function withPart(answer: Turn, part: Part): Partial<Turn> {
  const reasoning = (answer.reasoning ?? "") + (part.reasoning ?? "");
  return {
    text: answer.text + (part.text ?? ""),
    ...(reasoning && { reasoning }),
    ...(part.timings && { timings: part.timings }),
    ...(part.error && { problem: part.error }),
  };
}

/** A turn as the API takes it. Reasoning is not sent back: models do not expect it. */
function message({ role, text, images = [] }: Turn): object {
  if (images.length === 0) return { role, content: text };
  const parts = images.map((url) => ({ type: "image_url", image_url: { url } }));
  return { role, content: [{ type: "text", text }, ...parts] };
}
