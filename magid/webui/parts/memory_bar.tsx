// A bar of memory that stacks what holds it, with a legend: the names are the bar's text.
import { bytes } from "./format.ts";

/** Of a model's memory: the part of each kind, in bytes. */
export interface Kinds {
  weights: number;
  context: number;
  compute: number; // with what the driver takes
}

export interface Segment {
  label: string;
  bytes: number;
  kind: "model" | "other" | "reserve";
  kinds?: Kinds | undefined; // where they are known
  colour?: number; // of a model; by its place in the bar if not given
}

const COLOURS = 6; // classes c0 to c5 in style.css

interface Props {
  title: string;
  detail?: string;
  total: number;
  segments: Segment[];
}

export function MemoryBar({ title, detail = "", total, segments }: Props) {
  const used = segments.reduce((sum, segment) => sum + segment.bytes, 0);
  const free = Math.max(0, total - used);
  const share = (part: number) => ({ width: `${(100 * part) / Math.max(total, used, 1)}%` });
  return (
    <figure class="memory">
      <figcaption>
        <strong>{title}</strong> {detail && <span class="quiet">{detail}</span>}
        <span class="figure">
          {bytes(used)} of {bytes(total)}
        </span>
      </figcaption>
      <div class="bar" aria-hidden="true">
        {segments.map((segment, index) =>
          partsOf(segment).map(([name, part]) => (
            <span key={segment.label + name} class={`${colour(segment, index)} ${name}`}
              style={share(part)} title={`${segment.label}: ${bytes(part)} ${name}`} />
          )),
        )}
      </div>
      <ul class="legend">
        {segments.map((segment, index) => (
          <li key={segment.label}>
            <span class={`swatch ${colour(segment, index)}`} />
            <span class="name">{segment.label}</span> <span>{bytes(segment.bytes)}</span>
            {segment.kinds && partsOf(segment).map(([name, part]) => (
              <span key={name} class="kind">
                <span class={`swatch ${colour(segment, index)} ${name}`} /> {bytes(part)} {name}
              </span>
            ))}
          </li>
        ))}
        <li>
          <span class="swatch" />
          <span class="name">Free</span> <span>{bytes(free)}</span>
        </li>
      </ul>
    </figure>
  );
}

/** Names and sizes of what a segment is drawn as; the names are classes, too. */
function partsOf({ kinds, bytes: all }: Segment): [string, number][] {
  if (kinds === undefined) return [["", all]];
  return Object.entries(kinds).filter(([, part]) => part > 0) as [string, number][];
}

function colour(segment: Segment, index: number): string {
  return segment.kind === "model" ? `c${(segment.colour ?? index) % COLOURS}` : segment.kind;
}
