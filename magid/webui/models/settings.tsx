// How a model's servers run, as a form: each field with where its value comes from.
import { useEffect, useState } from "preact/hooks";

import { schemas } from "../api/document.ts";
import { ApiError, mayChange, put } from "../api/request.ts";
import type { ModelDetail } from "../api/types.ts";
import { tell, tellError } from "../parts/notices.tsx";
import {
  changes,
  FieldError,
  kindOf,
  shown,
  titleOf,
  type SettingSchema,
} from "./settings_form.ts";

type Schemas = Record<string, SettingSchema>;

/** The table of settings. */
const settings = async () => (await schemas()).SettingsBody?.properties as unknown as Schemas;

interface Problem {
  key: string;
  message: string;
}

interface Props {
  detail: ModelDetail;
  onFields: (fields: Record<string, string>) => void;
  onSaved: () => void;
}

export function Settings({ detail, onFields, onSaved }: Props) {
  const [table, setTable] = useState<Schemas>();
  const [fields, setFields] = useState<Record<string, string>>({});
  const [problem, setProblem] = useState<Problem>();
  useEffect(() => void settings().then(setTable, tellError), []);
  if (table === undefined) return null;
  const values = detail as unknown as Record<string, unknown>;
  const set = (key: string, text: string) => {
    const next = { ...fields, [key]: text };
    setFields(next);
    onFields(next);
    setProblem(undefined);
  };
  const send = async (body: Record<string, unknown>) => {
    const found = await saved(detail.modelId, body);
    setProblem(found);
    if (found) return;
    setFields({});
    onSaved();
  };
  const submit = (event: Event) => {
    event.preventDefault();
    try {
      void send(changes(fields, values, table));
    } catch (error) {
      if (error instanceof FieldError) setProblem(error);
      else throw error;
    }
  };
  return (
    <form class="settings" onSubmit={submit}>
      {Object.entries(table).map(([key, schema]) => (
        <Field
          key={key}
          name={key}
          schema={schema}
          text={fields[key] ?? shown(values[key])}
          source={detail.sources[key] ?? ""}
          problem={problem?.key === key ? problem.message : detail.notInForce[key]}
          onInput={(text) => set(key, text)}
          onDefault={() => void send({ [key]: null })}
        />
      ))}
      {mayChange() && (
        <div class="buttons">
          <button class="primary" disabled={Object.keys(fields).length === 0}>
            Save
          </button>
          <button type="button" onClick={() => setFields({})}>
            Discard
          </button>
        </div>
      )}
    </form>
  );
}

/** Saves it. Returns why it was refused, and for which field, as far as magid says so. */
async function saved(modelId: string, body: object): Promise<Problem | undefined> {
  try {
    const path = `api/models/${encodeURIComponent(modelId)}/runtime-settings`;
    const answer = await put<{ message: string }>(path, body);
    tell(answer.message);
  } catch (error) {
    tellError(error);
    const field = error instanceof ApiError ? error.details.field : undefined;
    const key = typeof field === "string" ? field : "";
    return { key, message: (error as Error).message };
  }
  return undefined;
}

interface FieldProps {
  name: string;
  schema: SettingSchema;
  text: string;
  source: string;
  problem: string | undefined;
  onInput: (text: string) => void;
  onDefault: () => void;
}

function Field(props: FieldProps) {
  const { name, schema, source, problem, onDefault } = props;
  const isOwn = source === "override";
  return (
    <div class="field">
      <label for={`set-${name}`}>{titleOf(name)}</label>
      <Input {...props} />
      <div class="source">
        {isOwn ? "set here" : source}
        {isOwn && mayChange() && (
          <button
            type="button"
            class="bare"
            aria-label={`Back to default: ${titleOf(name)}`}
            onClick={onDefault}
          >
            Back to default
          </button>
        )}
      </div>
      <p class="quiet" id={`about-${name}`}>
        {withCode(
          `${schema.description}. Values: ${schema["x-allowed"]}. Default: ${schema["x-unset"]}.`,
        )}
      </p>
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
    </div>
  );
}

/** What stands between backticks, as code. */
const withCode = (text: string) =>
  text.split("`").map((part, index) => (index % 2 ? <code key={index}>{part}</code> : part));

function Input({ name, schema, text, problem, onInput }: FieldProps) {
  const common = {
    id: `set-${name}`,
    "aria-describedby": `about-${name}`,
    "aria-invalid": problem !== undefined,
    disabled: !mayChange(),
    value: text,
  };
  if (kindOf(schema) === "choice") {
    return (
      <select {...common} onChange={(event) => onInput(event.currentTarget.value)}>
        {schema.anyOf[0]?.enum?.map((word) => (
          <option key={word} value={word}>
            {word}
          </option>
        ))}
      </select>
    );
  }
  return (
    <input
      {...common}
      placeholder={schema["x-example"] ? `for example ${schema["x-example"]}` : ""}
      spellcheck={false}
      onInput={(event) => onInput(event.currentTarget.value)}
    />
  );
}
