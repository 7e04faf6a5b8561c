// Requests and tokens now, with a line over the last minutes.
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import type uPlot from "uplot";

import { count, rate } from "../parts/format.ts";
import { live } from "../stream/client.ts";
import { samples } from "../stream/history.ts";
import { rates } from "../stream/rates.ts";

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

function line(now: number, figure: Figure): uPlot.AlignedData {
  const times = Array.from({ length: POINTS }, (_, i) => now - (POINTS - 1 - i) * STEP_MS);
  const values = times.map((at) => rates(samples.peek(), at, STEP_MS)?.[figure] ?? null);
  return [times.map((at) => at / 1000), values];
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
          <Line data={asked} />
        </Number>
        <Number label="Tokens a second" value={rate(present?.tokens)}>
          <Line data={written} />
        </Number>
      </div>
    </section>
  );
}

function Number(props: { label: string; value: string; children?: preact.ComponentChildren }) {
  return (
    <div class="figure-card">
      <div class="label">{props.label}</div>
      <div class="value">{props.value}</div>
      {props.children}
    </div>
  );
}

/** A line without axes. Its numbers stand beside it, so it is hidden from screen readers. */
function Line({ data }: { data: uPlot.AlignedData }) {
  const element = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  useEffect(() => {
    let isGone = false;
    void import("uplot").then(({ default: UPlot }) => {
      if (isGone || element.current === null) return;
      plot.current = new UPlot(options(element.current), data, element.current);
    });
    return () => {
      isGone = true;
      plot.current?.destroy();
    };
  }, []);
  useEffect(() => plot.current?.setData(data), [data]);
  return <div class="line" ref={element} aria-hidden="true" />;
}

function options(element: HTMLElement): uPlot.Options {
  const colour = getComputedStyle(element).color;
  return {
    width: element.clientWidth,
    height: element.clientHeight,
    legend: { show: false },
    cursor: { show: false },
    axes: [{ show: false }, { show: false }],
    padding: [2, 0, 2, 0],
    scales: { y: { range: (_plot, _low, high) => [0, Math.max(1, high)] } },
    series: [{}, { stroke: colour, width: 1.5, points: { show: false } }],
  };
}
