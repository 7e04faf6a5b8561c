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

function matcher(pattern: string): RegExp {
  const source = plain(pattern).replace(/\[!?[^\]]+\]|[*?]|[^*?[]+|\[/g, (part) => {
    if (part === "*") return ".*";
    if (part === "?") return ".";
    if (part.length > 1 && part.startsWith("[")) return part.replace("[!", "[^");
    return part.replace(/[^\w-]/g, "\\$&");
  });
  try {
    return new RegExp(`^${source}$`);
  } catch {
    return /$^/; // [z-a] matches nothing
  }
}
