// A line without axes. Its number stands beside it, so it is hidden from screen readers.
import { linePath, LINE_HEIGHT } from "./points.ts";

export function Line({ values }: { values: (number | null)[] }) {
  return (
    <svg
      class="line"
      viewBox={`0 0 ${values.length - 1} ${LINE_HEIGHT}`}
      preserveAspectRatio="none"
      aria-hidden="true"
    >
      <path d={linePath(values)} />
    </svg>
  );
}
