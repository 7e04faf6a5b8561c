// Further names of a profile: aliases, and variants, which bring parameters of their own.
import { mayChange } from "../api/request.ts";
import { Icon } from "../parts/icons.tsx";
import { TextControl } from "../parts/text_control.tsx";
import { live } from "../stream/client.ts";
import { isValues, type Path, type Values } from "./draft.ts";
import { FieldFaults, idOf, Properties, valueAt, type Form } from "./fields.tsx";
import { TIERS } from "./selectors.ts";

export function Aliases({ form }: { form: Form }) {
  const found = valueAt(form.value, ["aliases"]);
  const aliases = isValues(found) ? found : {};
  const models = Object.keys(live.value?.registry.models ?? {});
  return (
    <>
      <p class="quiet">
        A client that asks for one of these names gets the model behind it. With parameters, one
        running server is several models.
      </p>
      <datalist id="targets">
        {["auto", ...TIERS, ...models].map((name) => <option key={name} value={name} />)}
      </datalist>
      {Object.entries(aliases).map(([name, target]) => (
        <Alias key={name} form={form} name={name} target={target} />
      ))}
      <FieldFaults form={isValues(found) ? { ...form, faults: own(form) } : form}
        path={["aliases"]} />
      {mayChange() && (
        <button onClick={() => add(form, aliases)}>Add a name</button>
      )}
    </>
  );
}

/** The faults of all names together: those of one stand at it. */
const own = ({ faults }: Form) => faults.filter(({ field }) => field === "aliases");

function add(form: Form, aliases: Values): void {
  let name = "new-name";
  for (let count = 2; name in aliases; count += 1) name = `new-name-${count}`;
  form.set(["aliases", name], "auto");
  setTimeout(() => document.getElementById(idOf(["aliases", name, "+name"]))?.focus());
}

function Alias({ form, name, target }: { form: Form; name: string; target: unknown }) {
  const path: Path = ["aliases", name];
  const isVariant = isValues(target);
  const model = isVariant ? target.model : target;
  const set = (value: unknown) => form.set(path, value);
  return (
    <div class="alias" role="group" aria-label={`Name ${name}`}>
      <div class="filters">
        <TextControl id={idOf([...path, "+name"])} aria-label={`Name: ${name}`} value={name}
          disabled={!mayChange()} onValue={(text) => form.rename(path, text.trim())} />
        <span class="low" aria-hidden="true">→</span>
        <TextControl id={idOf(path)} aria-label={`Model of ${name}`} list="targets"
          disabled={!mayChange()} value={typeof model === "string" ? model : ""}
          onValue={(text) => set(isVariant ? { ...target, model: text } : text)} />
        <label class="check">
          <input type="checkbox" checked={isVariant} disabled={!mayChange()}
            aria-label={`Parameters of ${name}`}
            onChange={() => set(isVariant ? (model ?? "auto") : { model })} />
          Parameters
        </label>
        {mayChange() && (
          <button class="bare" aria-label={`Remove ${name}`} title="Remove"
            onClick={() => set(undefined)}>
            <Icon name="close" />
          </button>
        )}
      </div>
      {isVariant ? (
        <Properties form={form} path={path} schema="Variant" without={["model"]} />
      ) : (
        <FieldFaults form={form} path={path} />
      )}
    </div>
  );
}
