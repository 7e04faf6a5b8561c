// A bar of memory that stacks what holds it, with a legend: the names are the bar's text.
import { bytes } from "./format.ts";

export interface Segment {
  label: string;
  bytes: number;
  kind: "model" | "other" | "reserve";
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
  return (
    <figure class="memory">
      <figcaption>
        <strong>{title}</strong> {detail && <span class="quiet">{detail}</span>}
        <span class="figure">
          {bytes(used)} of {bytes(total)}
        </span>
      </figcaption>
      <div class="bar" aria-hidden="true">
        {segments.map((segment, index) => (
          <span
            key={segment.label}
            class={colour(segment, index)}
            style={{ width: `${(100 * segment.bytes) / Math.max(total, used, 1)}%` }}
            title={`${segment.label}: ${bytes(segment.bytes)}`}
          />
        ))}
      </div>
      <ul class="legend">
        {segments.map((segment, index) => (
          <li key={segment.label}>
            <span class={`swatch ${colour(segment, index)}`} />
            <span class="name">{segment.label}</span> <span>{bytes(segment.bytes)}</span>
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

function colour(segment: Segment, index: number): string {
  return segment.kind === "model" ? `c${index % COLOURS}` : segment.kind;
}
