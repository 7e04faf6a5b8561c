// What the user has just asked for: shown at once, and corrected by the next event.
import { signal } from "@preact/signals";

import { post } from "../api/request.ts";
import type { Server, ServerAction } from "../api/types.ts";
import { tell, tellError } from "../parts/notices.tsx";
import type { ShownState } from "../parts/state.tsx";
import { listeners } from "../stream/client.ts";

export type Verb = "start" | "stop" | "restart";

const SHOWN: Record<Verb, ShownState> = {
  start: "starting",
  stop: "stopping",
  restart: "stopping",
};
const LONGEST_MS = 3_000; // after magid's answer; by then an event has come, or none will

/** Model id -> the state to show meanwhile. */
export const expected = signal<Record<string, ShownState>>({});

listeners.add(({ kind, data }) => {
  if (kind === "server") forget((data.server as Server).modelId);
  else if (kind === "serverRemoved") forget(data.modelId as string);
  else if (kind === "snapshot") expected.value = {};
});

function forget(modelId: string): void {
  if (!(modelId in expected.peek())) return;
  const left = { ...expected.peek() };
  delete left[modelId];
  expected.value = left;
}

export async function ask(verb: Verb, modelId: string): Promise<void> {
  expected.value = { ...expected.peek(), [modelId]: SHOWN[verb] };
  try {
    const path = `api/models/servers/${encodeURIComponent(modelId)}/${verb}`;
    tell((await post<ServerAction>(path)).message);
    setTimeout(() => forget(modelId), LONGEST_MS);
  } catch (error) {
    forget(modelId);
    tellError(error);
  }
}
