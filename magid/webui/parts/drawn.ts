// Elements of long lists that change in a few places.
import type { VNode } from "preact";
import { useMemo } from "preact/hooks";

/**
 * What `draw` makes of each item: the same element for the same item, which Preact leaves as it is.
 * A signal that the element's component reads draws it again by itself. `by`: all that `draw`
 * depends on beside the item.
 */
export function useDrawn<Item>(items: Item[], draw: (item: Item) => VNode, by?: unknown): VNode[] {
  const kept = useMemo(() => ({ drawn: new Map<Item, VNode>() }), [by]);
  const pairs = items.map((item): [Item, VNode] => [item, kept.drawn.get(item) ?? draw(item)]);
  kept.drawn = new Map(pairs);
  return pairs.map(([, element]) => element);
}
