// Up to which complexity a request for `auto` goes to a tier.
import { mayChange } from "../api/request.ts";
import { TextControl } from "../parts/text_control.tsx";
import { faultsAt, isValues, type Path } from "./draft.ts";
import { FieldFaults, idOf, parsed, shown, valueAt, type Form } from "./fields.tsx";
import { TIERS } from "./selectors.ts";

const PATH = ["tier_config"];
const COLUMNS = [
  { key: "max_score", api: "maxScore", title: "Up to score", type: "number" },
  { key: "expected_time_seconds", api: "expectedTimeSeconds", title: "Seconds", type: "number" },
  { key: "description", api: "description", title: "Description", type: "string" },
];

type Range = Record<string, unknown>;

/** Those of the text, else the defaults. */
function rangesOf({ value, schemas }: Form): Range[] {
  const given = valueAt(value, PATH);
  if (Array.isArray(given)) return given.filter(isValues);
  const unset = schemas.Profile?.properties?.tierConfig?.default as Range[] | undefined;
  return (unset ?? []).map((range) => ({
    name: range.name,
    ...Object.fromEntries(COLUMNS.map(({ key, api }) => [key, range[api]])),
  }));
}

export function TierRanges({ form }: { form: Form }) {
  const ranges = rangesOf(form);
  const change = (tier: string, range: Range | undefined) => {
    const byTier = new Map(ranges.map((one) => [one.name, one]));
    if (range) byTier.set(tier, range);
    else byTier.delete(tier);
    form.set(PATH, TIERS.flatMap((name) => byTier.get(name) ?? []));
  };
  return (
    <>
      <p class="quiet">
        The model <code>auto</code> scores each request from 0 to 10 and takes the first tier that
        goes up to its score.
      </p>
      <div class="scroll" role="region" aria-label="Table of tiers" tabIndex={0}>
        <table aria-label="Tiers for auto" class="inputs">
          <thead>
            <tr>
              <th scope="col">Tier</th>
              {COLUMNS.map(({ key, title }) => <th key={key} scope="col">{title}</th>)}
            </tr>
          </thead>
          <tbody>
            {TIERS.map((tier) => (
              <TierRow key={tier} form={form} tier={tier} change={change}
                at={ranges.findIndex(({ name }) => name === tier)} ranges={ranges} />
            ))}
          </tbody>
        </table>
      </div>
      <FieldFaults form={form} path={PATH} />
    </>
  );
}

interface RowProps {
  form: Form;
  tier: string;
  at: number; // -1: it is not used
  ranges: Range[];
  change: (tier: string, range: Range | undefined) => void;
}

function TierRow({ form, tier, at, ranges, change }: RowProps) {
  const range = ranges[at];
  const path = (key: string): Path => [...PATH, at, key];
  return (
    <tr>
      <td>
        <label class="check">
          <input type="checkbox" checked={range !== undefined} disabled={!mayChange()}
            onChange={() => change(tier, range ? undefined : { name: tier, max_score: 10 })} />
          {tier}
        </label>
      </td>
      {COLUMNS.map(({ key, title, type }) => (
        <td key={key}>
          {range && (
            <TextControl id={idOf(path(key))} aria-label={`${title}: ${tier}`}
              disabled={!mayChange()} value={shown(range[key])}
              aria-invalid={faultsAt(form.faults, path(key)).length > 0}
              onValue={(text) => {
                const { [key]: _old, ...rest } = range;
                const value = parsed(text, { type });
                change(tier, value === undefined ? rest : { ...rest, [key]: value });
              }} />
          )}
        </td>
      ))}
    </tr>
  );
}
