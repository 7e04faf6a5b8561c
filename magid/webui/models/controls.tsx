// The controls of one model: start, stop, restart; enabled, tier, thinking; pin.
import { mayChange, put } from "../api/request.ts";
import type { Model, Tier } from "../api/types.ts";
import { Icon, type IconName } from "../parts/icons.tsx";
import { act, tell } from "../parts/notices.tsx";
import type { ShownState } from "../parts/state.tsx";
import { TextControl } from "../parts/text_control.tsx";
import { ask, expected, type Verb } from "./acting.ts";
import { pins, togglePin } from "./pins.ts";
import type { Row } from "./rows.ts";

const DOWN: ShownState[] = ["stopped", "asleep", "off", "failed", "backoff"];
const WORDS: Record<Verb, string> = { start: "Start", stop: "Stop", restart: "Restart" };

/** The state to show: what was asked for, until an event says what it is. */
export function shownState({ id, state }: Row): ShownState {
  return expected.value[id] ?? state;
}

export function verbsFor(state: ShownState): Verb[] {
  return DOWN.includes(state) ? ["start"] : ["stop", "restart"];
}

export function Verbs({ row, withWords = false }: { row: Row; withWords?: boolean }) {
  if (!mayChange()) return null;
  return (
    <>
      {verbsFor(shownState(row)).map((verb) => (
        <button
          key={verb}
          class={withWords ? "" : "bare"}
          aria-label={`${WORDS[verb]} ${row.model.displayName}`}
          title={WORDS[verb]}
          onClick={() => void ask(verb, row.id)}
        >
          <Icon name={verb satisfies IconName} /> {withWords && WORDS[verb]}
        </button>
      ))}
    </>
  );
}

const change = (model: Model, what: string, body: object) =>
  act(() =>
    put<{ message: string }>(`api/models/${encodeURIComponent(model.modelId)}/${what}`, body),
  );

export function TierChoice({ model }: { model: Model }) {
  if (!mayChange()) return <>{model.effectiveTier}</>;
  const choose = (tier: string) => change(model, "tier", { tier: tier || null });
  return (
    <select
      class="bare"
      aria-label={`Tier of ${model.displayName}`}
      value={model.tierOverride ?? ""}
      onChange={(event) => void choose(event.currentTarget.value)}
    >
      <option value="">{model.tierOverride ? "as found" : model.effectiveTier}</option>
      {(["fast", "balanced", "powerful"] satisfies Tier[]).map((tier) => (
        <option key={tier} value={tier}>
          {tier} (set)
        </option>
      ))}
    </select>
  );
}

export type Decision = "tier" | "thinking" | "enabled" | "port";

interface SourceProps {
  model: Model;
  what: Decision;
  source: string | undefined;
}

/** Where it comes from, and the way back where it was set by hand. */
export function Source({ model, what, source }: SourceProps) {
  if (source !== "override") return <span class="quiet source">{source && `by ${source}`}</span>;
  return (
    <span class="quiet source">
      set here{" "}
      {mayChange() && (
        <button class="bare" aria-label={`Back to default: ${what}`}
          onClick={() => void change(model, what, { [what]: null })}>
          Back to default
        </button>
      )}
    </span>
  );
}

/** The port of its first server, to be pinned to another one. */
export function PortField({ model }: { model: Model }) {
  const pin = (text: string) => {
    if (/^\s*\d+\s*$/.test(text)) void change(model, "port", { port: Number(text) });
    else tell(`cannot use port ${text}: give a number, as 8080`, "bad");
  };
  return (
    <TextControl class="port" aria-label={`Port of ${model.displayName}`} inputMode="numeric"
      disabled={!mayChange()} value={String(model.port ?? "")} placeholder="–" onValue={pin} />
  );
}

interface SwitchProps {
  label: string;
  isOn: boolean;
  onChange: (isOn: boolean) => unknown;
}

function Switch({ label, isOn, onChange }: SwitchProps) {
  return (
    <input
      type="checkbox"
      aria-label={label}
      title={label}
      checked={isOn}
      disabled={!mayChange()}
      onChange={(event) => onChange(event.currentTarget.checked)}
    />
  );
}

export function EnabledSwitch({ model }: { model: Model }) {
  return (
    <Switch
      label={`Enabled: ${model.displayName}`}
      isOn={model.enabled}
      onChange={(enabled) => change(model, "enabled", { enabled })}
    />
  );
}

export function ThinkingSwitch({ model }: { model: Model }) {
  return (
    <Switch
      label={`Thinking: ${model.displayName}`}
      isOn={model.effectiveThinking}
      onChange={(thinking) => change(model, "thinking", { thinking })}
    />
  );
}

export function PinButton({ model }: { model: Model }) {
  const isPinned = pins.value.has(model.modelId);
  return (
    <button
      class={isPinned ? "bare pinned" : "bare"}
      aria-pressed={isPinned}
      aria-label={`Pin ${model.displayName}`}
      title="Pin: keep at the top of the list, in this browser"
      onClick={() => togglePin(model.modelId)}
    >
      <Icon name="pin" />
    </button>
  );
}
