// What a change of profile would do: shown before it is done.
import type { Plan, PlanLine } from "../api/types.ts";
import { bytes, counted } from "../parts/format.ts";
import type { Live } from "../stream/state.ts";
import { needOf } from "./need.ts";

export function PlanView({ plan, live }: { plan: Plan; live: Live }) {
  const need = needOf(plan, live);
  return (
    <>
      <p>
        Stops {counted(plan.stop.length, "server")}, starts {plan.start.length}, keeps{" "}
        {plan.keep.length}.
      </p>
      {need.total > 0 && (
        <p>
          {need.isPart && "At least "}
          {bytes(need.total)} of {bytes(need.room)} are needed
          {need.isPart && "; for some models no prediction is known yet"}.
        </p>
      )}
      <Lines title="Stops" lines={plan.stop} />
      <Lines title="Starts" lines={plan.start} />
      <Lines title="Cannot start" lines={plan.blocked} />
    </>
  );
}

const SHOWN = 12;

function Lines({ title, lines }: { title: string; lines: PlanLine[] }) {
  if (lines.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <ul class="plain">
        {lines.slice(0, SHOWN).map(({ modelId, port, reason }) => (
          <li key={`${modelId} ${port ?? ""}`}>
            {modelId} <span class="quiet">{reason}</span>
          </li>
        ))}
        {lines.length > SHOWN && <li class="quiet">and {lines.length - SHOWN} more</li>}
      </ul>
    </>
  );
}
