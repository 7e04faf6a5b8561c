// Fields of a profile's form: each shows what the text says, and changes the text.
import { stringify } from "yaml";

import { resolved, type Schema, type Schemas } from "../api/document.ts";
import { mayChange } from "../api/request.ts";
import { titleOf } from "../models/settings_form.ts";
import { TextControl } from "../parts/text_control.tsx";
import {
  faultsAt,
  fieldOf,
  isValues,
  read,
  snake,
  type Fault,
  type Path,
  type Values,
} from "./draft.ts";

export interface Form {
  value: Values;
  faults: Fault[];
  schemas: Schemas;
  set: (path: Path, value: unknown) => void; // undefined: takes the key out
  rename: (path: Path, name: string) => void;
}

export const idOf = (path: Path) => `at-${fieldOf(path)}`;

export function valueAt(value: unknown, path: Path): unknown {
  return path.reduce<unknown>((inner, part) => (inner as Values | undefined)?.[part], value);
}

/** What is wrong with a field, below it. */
export function FieldFaults({ form, path }: { form: Form; path: Path }) {
  return (
    <>
      {faultsAt(form.faults, path).map(({ field, reason }) => (
        <p key={field + reason} class="problem" role="alert">
          {field === fieldOf(path) ? "" : field.slice(fieldOf(path).length)} {reason}
        </p>
      ))}
    </>
  );
}

interface PropertiesProps {
  form: Form;
  path: Path;
  schema: string; // its name in the API's document
  without?: string[];
}

/** A field for each property of a schema. */
export function Properties({ form, path, schema, without = [] }: PropertiesProps) {
  const properties = Object.entries(form.schemas[schema]?.properties ?? {});
  return (
    <div class="settings">
      {properties.map(([key, property]) =>
        without.includes(key) ? null : (
          <Field key={key} form={form} path={[...path, snake(key)]} title={titleOf(key)}
            schema={resolved(property, form.schemas)} />
        ),
      )}
    </div>
  );
}

interface FieldProps {
  form: Form;
  path: Path;
  title: string;
  schema: Schema;
}

export function Field(props: FieldProps) {
  const { form, path, title, schema } = props;
  return (
    <div class="field">
      <label for={idOf(path)}>{title}</label>
      <Control {...props} />
      <p class="quiet" id={`about-${idOf(path)}`}>
        {schema.enum || schema.type !== "boolean" ? about(schema) : schema.description}
      </p>
      <FieldFaults form={form} path={path} />
    </div>
  );
}

/** The description, and what holds where nothing is given. */
function about({ description, default: unset }: Schema): string {
  const isSaid = ["string", "number"].includes(typeof unset) && unset !== "";
  return [description, isSaid && `Default: ${String(unset)}`].filter(Boolean).join(". ");
}

function Control({ form, path, schema }: FieldProps) {
  const value = valueAt(form.value, path);
  const common = {
    id: idOf(path),
    disabled: !mayChange(),
    "aria-describedby": `about-${idOf(path)}`,
    "aria-invalid": faultsAt(form.faults, path).length > 0,
  };
  if (schema.type === "boolean") {
    return (
      <div>
        <input {...common} type="checkbox" checked={(value ?? schema.default) === true}
          onChange={({ currentTarget }) => form.set(path, currentTarget.checked)} />
      </div>
    );
  }
  if (schema.enum) {
    return (
      <select {...common} value={String(value ?? schema.default)}
        onChange={({ currentTarget }) => form.set(path, currentTarget.value)}>
        {schema.enum.map((word) => <option key={word} value={word}>{word}</option>)}
      </select>
    );
  }
  return (
    <TextControl {...common} value={shown(value)} rows={rowsOf(path, schema, value)}
      onValue={(text) => form.set(path, parsed(text, schema))} />
  );
}

const isMapping = (schema: Schema) => schema.type === "object";

function rowsOf(path: Path, schema: Schema, value: unknown): number {
  const isLong = isMapping(schema) || path.at(-1) === "system";
  return isLong ? Math.min(12, Math.max(2, shown(value).split("\n").length)) : 1;
}

export function shown(value: unknown): string {
  if (value === undefined || value === null) return "";
  if (Array.isArray(value)) return value.join(" ");
  if (isValues(value)) return Object.keys(value).length ? stringify(value, { lineWidth: 0 }) : "";
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** What a field says; an empty one takes the key out. A text that is no value is left to magid. */
export function parsed(text: string, schema: Schema): unknown {
  if (text.trim() === "") return undefined;
  if (schema.type === "array") return text.trim().split(/[\s,]+/);
  if (isMapping(schema)) {
    const found = read(text);
    return "value" in found ? found.value : text;
  }
  const isNumber = [schema, ...(schema.anyOf ?? [])].some(
    ({ type }) => type === "integer" || type === "number",
  );
  return isNumber && Number.isFinite(Number(text)) ? Number(text) : text;
}
