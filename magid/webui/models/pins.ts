// The models that this browser keeps at the top of the list.
import { signal } from "@preact/signals";

import { store, stored } from "../shell/stored.ts";

const kept = stored<unknown>("pins", []);

export const pins = signal<ReadonlySet<string>>(
  new Set(Array.isArray(kept) ? kept.filter((one) => typeof one === "string") : []),
);

export function togglePin(modelId: string): void {
  const next = new Set(pins.peek());
  if (!next.delete(modelId)) next.add(modelId);
  pins.value = next;
  store("pins", [...next]);
}
