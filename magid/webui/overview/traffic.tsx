// Requests and tokens now, with a line over the last minutes.
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useState } from "preact/hooks";

import { count, rate } from "../parts/format.ts";
import { live } from "../stream/client.ts";
import { samples } from "../stream/history.ts";
import { rates } from "../stream/rates.ts";
import { Line } from "./line.tsx";

const STEP_MS = 5_000;
const POINTS = 60; // five minutes
const DRAWN_MS = 1_000; // the lines are drawn no more often

/** Draws again every few seconds, so that the line moves when nothing happens; asks nothing. */
function useNow(): number {
  const [now, setNow] = useState(Date.now);
  useEffect(() => {
    const timer = setInterval(() => setNow(Date.now()), STEP_MS);
    return () => clearInterval(timer);
  }, []);
  return now;
}

type Figure = "requests" | "tokens";

function line(now: number, figure: Figure): (number | null)[] {
  const times = Array.from({ length: POINTS }, (_, i) => now - (POINTS - 1 - i) * STEP_MS);
  return times.map((at) => rates(samples.peek(), at, STEP_MS)?.[figure] ?? null);
}

export function Traffic() {
  const requests = live.value?.requests;
  const now = Math.max(useNow(), samples.value.at(-1)?.at ?? 0);
  const present = rates(samples.value, now, 2 * STEP_MS);
  const [asked, written] = useMemo(
    () => [line(now, "requests"), line(now, "tokens")] as const,
    [Math.floor(now / DRAWN_MS)],
  );
  return (
    <section aria-labelledby="traffic">
      <h2 id="traffic">Requests</h2>
      <div class="figures">
        <Number label="Running" value={count(requests?.running)} />
        <Number label="Waiting" value={count(requests?.waiting)} />
        <Number label="Answered" value={count(requests?.ended)} />
        <Number label="Requests a second" value={rate(present?.requests)}>
          <Line values={asked} />
        </Number>
        <Number label="Tokens a second" value={rate(present?.tokens)}>
          <Line values={written} />
        </Number>
      </div>
    </section>
  );
}

function Number(props: { label: string; value: string; children?: ComponentChildren }) {
  return (
    <div class="figure-card">
      <div class="label">{props.label}</div>
      <div class="value">{props.value}</div>
      {props.children}
    </div>
  );
}
