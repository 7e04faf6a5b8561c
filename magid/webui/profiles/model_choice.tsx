// Which models a profile enables: by tier, one by one, or by patterns of ids.
import { useState } from "preact/hooks";

import { mayChange } from "../api/request.ts";
import type { Model } from "../api/types.ts";
import { TierChoice } from "../models/controls.tsx";
import { byName, bytes, counted } from "../parts/format.ts";
import { Table, type Column } from "../parts/table.tsx";
import { TextControl } from "../parts/text_control.tsx";
import { live } from "../stream/client.ts";
import type { Live } from "../stream/state.ts";
import { FieldFaults, idOf, valueAt, type Form } from "./fields.tsx";
import { ModelSettings } from "./model_settings.tsx";
import { needOf } from "./need.ts";
import { isIdOf, selects, TIERS } from "./selectors.ts";

const PATH = ["enabled_models"];

interface Choice {
  model: Model;
  by: string | undefined; // the entry that selects it
  isById: boolean;
}

export function ModelChoice({ form }: { form: Form }) {
  const [text, setText] = useState("");
  const [chosen, setChosen] = useState<Model>(); // whose settings are shown
  const now = live.value;
  if (now === undefined) return null;
  const found = valueAt(form.value, PATH);
  const entries = Array.isArray(found) ? found.map(String) : [];
  const set = (wanted: string[]) => form.set(PATH, wanted);
  const models = Object.values(now.registry.models);
  const choices = models.map((model) => choiceOf(model, entries));
  const word = text.toLowerCase();
  const shown = choices
    .filter(({ model }) => `${model.displayName} ${model.modelId}`.toLowerCase().includes(word))
    .sort((one, other) => byName(one.model.displayName, other.model.displayName));
  return (
    <>
      <Tiers entries={entries} set={set} />
      <div class="filters">
        <input type="search" aria-label="Search models" placeholder="Search models" value={text}
          onInput={({ currentTarget }) => setText(currentTarget.value)} />
        <span class="quiet">{summary(choices, now)}</span>
      </div>
      <Table label="Models of the profile" columns={columns(entries, set, setChosen)} rows={shown}
        keyOf={({ model }) => model.modelId} />
      <Patterns form={form} entries={entries} models={models} set={set} />
      {chosen && <ModelSettings model={chosen} onClose={() => setChosen(undefined)} />}
    </>
  );
}

function choiceOf(model: Model, entries: string[]): Choice {
  const id = entries.find((entry) => isIdOf(entry, model));
  return { model, by: id ?? entries.find((entry) => selects(entry, model)), isById: !!id };
}

/** How many run, and what they need together as far as it was predicted. */
function summary(choices: Choice[], now: Live): string {
  const enabled = choices.filter(({ by }) => by !== undefined);
  const start = enabled.map(({ model }) => model);
  const { total, room, isPart } = needOf({ start, keep: [] }, now);
  const need = `${isPart ? "at least " : ""}${bytes(total)} of ${bytes(room)}`;
  return counted(enabled.length, "model") + (total > 0 ? `, which need ${need}` : "");
}

interface EntriesProps {
  entries: string[];
  set: (wanted: string[]) => void;
}

const without = (entries: string[], gone: (entry: string) => boolean) =>
  entries.filter((entry) => !gone(entry));

function Tiers({ entries, set }: EntriesProps) {
  return (
    <div class="filters" role="group" aria-label="Whole tiers">
      <span class="quiet">Whole tiers:</span>
      {TIERS.map((tier) => {
        const entry = `tier:${tier}`;
        const isOn = entries.includes(entry);
        return (
          <label class="check" key={tier}>
            <input type="checkbox" checked={isOn} disabled={!mayChange()}
              onChange={() => set(isOn ? without(entries, (one) => one === entry)
                : [...entries, entry])} />
            {tier}
          </label>
        );
      })}
    </div>
  );
}

function columns(
  entries: string[],
  set: (wanted: string[]) => void,
  onSettings: (model: Model) => void,
): Column<Choice>[] {
  const toggle = ({ model, isById }: Choice) =>
    set(isById ? without(entries, (one) => isIdOf(one, model)) : [...entries, model.modelId]);
  return [
    { key: "check", title: "In this profile", isTitleHidden: true, cell: (choice) => (
      <input type="checkbox" aria-label={`In this profile: ${choice.model.displayName}`}
        checked={choice.by !== undefined} title={choice.by && `by ${choice.by}`}
        disabled={!mayChange() || (choice.by !== undefined && !choice.isById)}
        onChange={() => toggle(choice)} />
    ) },
    { key: "name", title: "Model", cell: ({ model }) => (
      <span class="name" title={model.modelId}>{model.displayName}</span>
    ) },
    { key: "by", title: "Enabled by", low: true, cell: ({ model, by }) => (
      <>{by} {model.enabledOverride !== null && (
        <span class="quiet">always {model.enabledOverride ? "enabled" : "disabled"}, by hand</span>
      )}</>
    ) },
    { key: "tier", title: "Tier", low: true, cell: ({ model }) => <TierChoice model={model} /> },
    { key: "need", title: "Needs", isNumber: true, low: true, cell: ({ model: { memory } }) =>
      bytes(memory.need && memory.need.devicesBytes + memory.need.hostBytes) },
    { key: "verbs", title: "Settings", isTitleHidden: true, isNumber: true, cell: ({ model }) => (
      <button aria-label={`Settings of ${model.displayName}`}
        onClick={() => onSettings(model)}>
        Settings
      </button>
    ) },
  ];
}

/** The entries that are neither tiers nor models which are there. */
function Patterns({ form, entries, models, set }: EntriesProps & { form: Form; models: Model[] }) {
  const isListed = (entry: string) =>
    entry.startsWith("tier:") || models.some((model) => isIdOf(entry, model));
  const id = idOf(PATH);
  const patterns = without(entries, isListed);
  return (
    <div class="field">
      <label for={id}>Patterns of ids</label>
      <TextControl id={id} aria-describedby={`about-${id}`} disabled={!mayChange()}
        rows={Math.max(2, patterns.length)}
        aria-invalid={form.faults.some(({ field }) => field.startsWith("enabled"))}
        value={patterns.join("\n")}
        onValue={(text) => set([...entries.filter(isListed), ...text.split(/\s+/).filter(Boolean)])}
      />
      <p class="quiet" id={`about-${id}`}>
        With *, ? and [...], one a line: qwen3_*; also models that are not there
      </p>
      <FieldFaults form={form} path={PATH} />
    </div>
  );
}
