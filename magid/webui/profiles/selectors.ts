// Which models an entry of `enabled_models` selects, as magid decides it. Pure.
import type { Model } from "../api/types.ts";

export const TIERS = ["fast", "balanced", "powerful"] as const;

type Known = Pick<Model, "modelId" | "effectiveTier">;

/** A model's id, a pattern of ids with *, ? and [...], or tier:NAME. */
export function selects(entry: string, { modelId, effectiveTier }: Known): boolean {
  if (entry.startsWith("tier:")) return entry === `tier:${effectiveTier}`;
  return matcher(entry).test(plain(modelId));
}

/** Whether the entry is the id of this model, in either spelling of its size. */
export function isIdOf(entry: string, { modelId }: Known): boolean {
  return plain(entry) === plain(modelId);
}

/** 8p0b and 8b are the same size. */
const plain = (id: string) => id.replace(/(^|_)(\d+)p0b(?=_|$)/g, "$1$2b");

/** Each * takes as little as it can, for good: no pattern is tried in endlessly many ways. */
function matcher(pattern: string): RegExp {
  const [first = "", ...others] = plain(pattern)
    .replace(/\[!?[^\]]+\]|[*?]|[^*?[]+|\[/g, (part) => {
      if (part === "*") return "\n"; // which no id has
      if (part === "?") return ".";
      if (part.length > 1 && part.startsWith("[")) return part.replace("[!", "[^");
      return part.replace(/[^\w-]/g, "\\$&");
    })
    .split("\n");
  const last = others.pop();
  const middle = others.map((words, at) => `(?=(.*?${words}))\\${at + 1}`).join("");
  try {
    return new RegExp(`^${first}${last === undefined ? "" : `${middle}.*${last}`}$`);
  } catch {
    return /$^/; // [z-a] matches nothing
  }
}
