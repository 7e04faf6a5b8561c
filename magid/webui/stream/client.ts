// The page's end of the stream: signals that views read.
import { batch, signal } from "@preact/signals";

import { Pacer } from "./pacer.ts";
import { LiveSource, type Connection, type Message } from "./source.ts";
import { applied, type Live, type LiveEvent } from "./state.ts";
import type { TabMessage } from "./worker.ts";

declare const WORKER_NAME: string; // build.mjs knows it

export const live = signal<Live | undefined>(undefined);
export const connection = signal<Connection>("connecting");
export const connectedSince = signal(Date.now());

/** Called with each event, in order, before `live` has it: what `live` does not keep. */
export const listeners = new Set<(event: LiveEvent) => void>();

let waiting: LiveEvent[] = []; // those that come together make one change of the page
const pacer = new Pacer(flush);
let retryNow: () => void = () => undefined;

/** Connects, through the shared worker where there is one. Called once. */
export function connect(): void {
  if (typeof SharedWorker === "undefined") {
    const source = new LiveSource(document.baseURI, take);
    retryNow = () => source.open();
    source.open();
    return;
  }
  const worker = new SharedWorker(workerAddress(), "magid");
  const say = (what: TabMessage) => worker.port.postMessage(what);
  worker.port.onmessage = ({ data }: MessageEvent<Message>) => take(data);
  retryNow = () => say("retry");
  addEventListener("pagehide", () => say("bye"));
  // A page that the browser had kept, and shows again, is no longer one of the worker's tabs.
  addEventListener("pageshow", (event) => event.persisted && location.reload());
}

/** Connects now: after a sign-in, or because the user does not want to wait. */
export function retry(): void {
  retryNow();
}

function take(message: Message): void {
  switch (message.type) {
    case "live": {
      const { live: state } = message; // what a snapshot is to the first tab
      const data = state as unknown as Record<string, unknown>;
      for (const listener of listeners) listener({ kind: "snapshot", data });
      live.value = state;
      break;
    }
    case "event":
      waiting.push(message.event);
      if (message.event.kind === "snapshot") pacer.now();
      else pacer.ask();
      break;
    case "connection":
      pacer.now();
      batch(() => {
        connection.value = message.connection;
        connectedSince.value = message.since;
        if (message.connection === "signedOut") live.value = undefined;
      });
  }
}

function flush(): void {
  const events = waiting;
  waiting = [];
  let state = live.peek();
  for (const event of events) {
    state = applied(state, event);
    for (const listener of listeners) listener(event);
  }
  live.value = state;
}

interface PolicyFactory {
  createPolicy(name: string, rules: { createScriptURL: (url: string) => string }): {
    createScriptURL: (url: string) => string;
  };
}

/** With Trusted Types a script's address needs a policy: this one lets only the worker's pass. */
function workerAddress(): string {
  const address = new URL(WORKER_NAME, import.meta.url).href;
  const types = (globalThis as { trustedTypes?: PolicyFactory }).trustedTypes;
  if (types === undefined) return address;
  const createScriptURL = (url: string) => {
    if (url !== address) throw new TypeError(`not a script of this page: ${url}`);
    return url;
  };
  return types.createPolicy("magid", { createScriptURL }).createScriptURL(address);
}
