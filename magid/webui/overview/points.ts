// A line, as the path that SVG draws. Pure.

export const LINE_HEIGHT = 40; // as high as it is drawn: only its width is stretched
const EDGE = 2; // above and below, for the width of the stroke

/**
 * One step to the right for each value, zero at the bottom, and the largest, or 1, at the top. What
 * is null is not known: the line is interrupted there. A value alone is a dot.
 */
export function linePath(values: (number | null)[]): string {
  const most = Math.max(1, ...values.map((value) => value ?? 0));
  const y = (value: number) => LINE_HEIGHT - EDGE - (value / most) * (LINE_HEIGHT - 2 * EDGE);
  return values
    .flatMap((value, x) => {
      if (value === null) return [];
      const point = `${x},${y(value).toFixed(1)}`;
      return (values[x - 1] ?? null) === null ? `M${point}h0` : `L${point}`;
    })
    .join("");
}
