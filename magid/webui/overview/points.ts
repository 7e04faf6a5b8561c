// The points of a line, as SVG has them. Pure.

export const LINE_HEIGHT = 40; // as high as it is drawn: only its width is stretched
const EDGE = 2; // above and below, for the width of the stroke

/**
 * One step to the right for each value, zero at the bottom, and the largest, or 1, at the top. What
 * is null is not known yet, and has no point.
 */
export function linePoints(values: (number | null)[]): string {
  const most = Math.max(1, ...values.map((value) => value ?? 0));
  const y = (value: number) => LINE_HEIGHT - EDGE - (value / most) * (LINE_HEIGHT - 2 * EDGE);
  return values
    .flatMap((value, x) => (value === null ? [] : [`${x},${y(value).toFixed(1)}`]))
    .join(" ");
}
