// Search and filters above the list of models.
import { signal } from "@preact/signals";

import { count, counted } from "../parts/format.ts";
import type { Filter, Row } from "./rows.ts";

const ALL: Filter = { text: "", tier: "", state: "", kind: "", fits: "" };

export const filter = signal<Filter>(ALL);

const set = (change: Partial<Filter>) => {
  filter.value = { ...filter.peek(), ...change };
};

const STATES: [Filter["state"], string][] = [
  ["", "All states"],
  ["running", "Running"],
  ["down", "Stopped"],
  ["trouble", "In trouble"],
  ["disabled", "Disabled"],
];
const FITS: [string, string][] = [
  ["", "Fits or not"],
  ["yes", "Fits"],
  ["part", "Fits in part"],
  ["no", "Does not fit"],
  ["unknown", "Not known"],
];
const TIERS = ["fast", "balanced", "powerful"];

export function Filters({ rows, shown }: { rows: Row[]; shown: number }) {
  const now = filter.value;
  const kinds = [...new Set(rows.map(({ model }) => model.kind))].sort();
  return (
    <div class="filters" role="search" aria-label="Models">
      <input
        type="search"
        placeholder="Search"
        aria-label="Search models"
        value={now.text}
        onInput={(event) => set({ text: event.currentTarget.value })}
      />
      <Choice
        label="State"
        value={now.state}
        options={STATES}
        onChange={(state) => set({ state: state as Filter["state"] })}
      />
      <Choice
        label="Tier"
        value={now.tier}
        options={[["", "All tiers"], ...TIERS.map((tier): [string, string] => [tier, tier])]}
        onChange={(tier) => set({ tier })}
      />
      <Choice
        label="Kind"
        value={now.kind}
        options={[["", "All kinds"], ...kinds.map((kind): [string, string] => [kind, kind])]}
        onChange={(kind) => set({ kind })}
      />
      <Choice
        label="Fits"
        value={now.fits}
        options={FITS}
        onChange={(fits) => set({ fits })}
      />
      <span class="quiet" role="status">
        {shown === rows.length
          ? counted(shown, "model")
          : `${count(shown)} of ${counted(rows.length, "model")}`}
      </span>
      {now !== ALL && shown < rows.length && (
        <button onClick={() => (filter.value = ALL)}>Show all</button>
      )}
    </div>
  );
}

interface ChoiceProps {
  label: string;
  value: string;
  options: [string, string][];
  onChange: (value: string) => void;
}

function Choice({ label, value, options, onChange }: ChoiceProps) {
  return (
    <select
      aria-label={label}
      value={value}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      {options.map(([option, word]) => (
        <option key={option} value={option}>
          {word}
        </option>
      ))}
    </select>
  );
}
