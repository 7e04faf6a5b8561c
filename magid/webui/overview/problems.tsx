// What magid says is wrong, each with what to do about it: the lines of `magictl status`.
import { mayChange, post } from "../api/request.ts";
import type { Condition, Plan } from "../api/types.ts";
import { Command } from "../parts/copy.tsx";
import { Icon } from "../parts/icons.tsx";
import { act } from "../parts/notices.tsx";

const SEVERITIES = {
  error: { word: "Error", tone: "bad", icon: "failed" },
  warning: { word: "Warning", tone: "warn", icon: "info" },
  note: { word: "Note", tone: "note", icon: "info" },
} as const;

export function Problems({ conditions }: { conditions: Condition[] }) {
  if (conditions.length === 0) return null;
  return (
    <section aria-labelledby="problems">
      <h2 id="problems">
        {conditions.some(({ severity }) => severity !== "note") ? "Needs attention" : "Notes"}
      </h2>
      <ul class="problems">
        {conditions.map((condition) => (
          <Problem key={condition.code + condition.message} condition={condition} />
        ))}
      </ul>
    </section>
  );
}

function Problem({ condition }: { condition: Condition }) {
  const { code, message, remedy, severity } = condition;
  const { word, tone, icon } = SEVERITIES[severity];
  return (
    <li class={tone}>
      <Icon name={icon} />
      <div>
        <p>
          <strong>{word}: </strong>
          {message}
        </p>
        {remedy.map((command) => (
          <Command key={command} text={command} />
        ))}
      </div>
      {code === "ChangesPending" && mayChange() && (
        <button onClick={() => void act(() => post<Plan>("api/models/apply"))}>Apply now</button>
      )}
    </li>
  );
}
