// A profile as a form and as YAML: two views of one text, which is the profile's file.
import { useSignal } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";

import { schemas, type Schemas } from "../api/document.ts";
import { mayChange, post } from "../api/request.ts";
import type { Plan } from "../api/types.ts";
import { counted } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { act, tellError } from "../parts/notices.tsx";
import { go, to } from "../shell/route.ts";
import { store, stored } from "../shell/stored.ts";
import { live } from "../stream/client.ts";
import { deleteProfile, faultsOf, load, save, type Loaded } from "./actions.ts";
import { changed, faultsAt, NEW, parse, withName, type Fault, type Values } from "./draft.ts";
import { idOf, type Form } from "./fields.tsx";
import { ProfileForm } from "./form.tsx";
import { goToLine, Sheet } from "./sheet.tsx";

const START = `# Which models run: ids, patterns of ids such as qwen3_*, or tier:fast.
name: My profile
enabled_models:
  - tier:fast
`;

/** What was not saved when the editor was left, by profile. */
const unsaved = new Map<string, Loaded>();

export function Editor({ name }: { name: string }) {
  const isNew = name === NEW;
  const isActive = name === live.value?.activeProfile;
  const text = useSignal(isNew ? takeCopied() : "");
  const [loaded, setLoaded] = useState<Loaded>();
  const [faults, setFaults] = useState<Fault[]>([]);
  const show = (found: Loaded) => {
    setLoaded(found);
    setFaults(found.faults);
    text.value = found.text;
  };
  const reload = async () => {
    unsaved.delete(name);
    show(isNew ? { text: START, tag: "", faults: [] } : await load(name));
  };
  useEffect(() => {
    const kept = unsaved.get(name);
    if (kept) show(kept);
    else if (!isNew) reload().catch(tellError);
  }, [name]);
  const submit = async () => {
    try {
      const slug = await save(name, loaded?.tag ?? "", text.value);
      unsaved.delete(name);
      if (isNew) go("profiles", slug);
      else await reload();
    } catch (error) {
      const found = faultsOf(error);
      if (found) setFaults(found);
      else tellError(error);
    }
  };
  if (!isNew && loaded === undefined) return <h1>Profile {name}</h1>;
  const set: Edit = (edit, left = faults) => {
    text.value = edit(text.value);
    setFaults(left);
    unsaved.set(name, { tag: loaded?.tag ?? "", text: text.value, faults: left });
  };
  return (
    <>
      <p class="crumbs">
        <a href={to("profiles")}><Icon name="back" /> Profiles</a>
      </p>
      <Views title={isNew ? "New profile" : `Profile ${name}`} isActive={isActive}
        text={text.value} faults={faults} set={set} />
      {mayChange() && (
        <div class="buttons sticky">
          <button class="primary" onClick={() => void submit()}>Save</button>
          {unsaved.has(name) && (
            <button onClick={() => void reload().catch(tellError)}>Discard</button>
          )}
          {faults.length > 0 && (
            <span class="problem">{counted(faults.length, "error")}</span>
          )}
          {!isNew && <Others name={name} text={text.value} isActive={isActive} />}
        </div>
      )}
    </>
  );
}

/** What is done with a profile that there is already. */
function Others({ name, text, isActive }: { name: string; text: string; isActive: boolean }) {
  return (
    <>
      <button onClick={() => copy(text)}>Copy</button>
      {!isActive && <button class="danger" onClick={() => void leave(name)}>Delete</button>}
      {isActive && <Pending />}
    </>
  );
}

async function leave(name: string): Promise<void> {
  if (await deleteProfile(name)) go("profiles");
}

/** What runs follows the active profile only when it is applied. */
function Pending() {
  const { stop = 0, start = 0 } = live.value?.pendingChanges ?? {};
  if (stop + start === 0) return null;
  return (
    <button onClick={() => void act(() => post<Plan>("api/models/apply"))}>
      Apply: stops {stop}, starts {start}
    </button>
  );
}

let copied = "";

/** Opens the text as a new profile, under another name. */
function copy(text: string): void {
  const read = parse(text);
  const name = "value" in read ? String(read.value.name) : "";
  copied = "value" in read ? changed(text, ["name"], `Copy of ${name}`) : text;
  unsaved.delete(NEW);
  go("profiles", NEW);
}

function takeCopied(): string {
  const text = copied || (unsaved.get(NEW)?.text ?? START);
  copied = "";
  return text;
}

/** Changes the text as it is by then, and leaves these faults. */
type Edit = (edit: (text: string) => string, left?: Fault[]) => void;

interface ViewsProps {
  title: string;
  isActive: boolean;
  text: string;
  faults: Fault[];
  set: Edit;
}

const WAYS = ["Form", "YAML"] as const;
const KEY = "profile-editor";

function Views({ title, isActive, text, faults, set }: ViewsProps) {
  const [way, setWay] = useState(stored<string>(KEY, "Form"));
  const [known, setKnown] = useState<Schemas>();
  useEffect(() => void schemas().then(setKnown, tellError), []);
  const read = parse(text);
  const value = "value" in read ? read.value : undefined;
  const isForm = way === "Form" && value !== undefined;
  const all = "fault" in read ? [read.fault] : faults;
  const choose = (next: string) => {
    setWay(next);
    store(KEY, next);
  };
  return (
    <>
      <div class="heading">
        <h1>{title}</h1>
        {isActive && (
          <span class="state good">
            <Icon name="ready" /> Active
          </span>
        )}
        <span class="grow" />
        <div class="choice" role="group" aria-label="Edit as">
          {WAYS.map((one) => (
            <button key={one} aria-pressed={isForm === (one === "Form")}
              disabled={one === "Form" && value === undefined} onClick={() => choose(one)}>
              {one}
            </button>
          ))}
        </div>
      </div>
      {isForm ? (
        known && <ProfileForm form={formOf(value, faults, known, set)} />
      ) : (
        <Sheet text={text} faults={all} onInput={(next) => set(() => next)} />
      )}
      <Faults faults={all} onLine={() => choose("YAML")} />
    </>
  );
}

function formOf(value: Values, faults: Fault[], known: Schemas, set: Edit): Form {
  return {
    value,
    faults,
    schemas: known,
    set: (path, next) => {
      const done = faultsAt(faults, path);
      set((text) => changed(text, path, next), faults.filter((one) => !done.includes(one)));
    },
    rename: (path, next) => set((text) => withName(text, path, next)),
  };
}

/** What is wrong; a click leads to the field, or to the line where the form has none. */
function Faults({ faults, onLine }: { faults: Fault[]; onLine: () => void }) {
  const goTo = ({ line, field }: Fault) => {
    const control = document.getElementById(idOf([field]));
    if (control) return control.focus();
    onLine();
    setTimeout(() => goToLine(line ?? 1));
  };
  return (
    <div class="faults" id="faults" role="alert">
      {faults.map((fault) => (
        <p key={`${fault.line ?? ""} ${fault.field} ${fault.reason}`}>
          <button class="bare problem" onClick={() => goTo(fault)}>
            {fault.line === null ? "Profile" : `Line ${fault.line}`}
          </button>{" "}
          {fault.field} {fault.reason}
        </p>
      ))}
    </div>
  );
}
