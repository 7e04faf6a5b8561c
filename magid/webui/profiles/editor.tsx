// A profile as YAML, as its file has it; what is wrong is marked at its line.
import { useEffect, useRef, useState } from "preact/hooks";

import { ApiError, ask, mayChange } from "../api/request.ts";
import type { Profile } from "../api/types.ts";
import { Icon } from "../parts/icons.tsx";
import { tell, tellError } from "../parts/notices.tsx";
import { go, to } from "../shell/route.ts";
import { lineOf, NEW, parse, toText, type Fault } from "./draft.ts";

const START = `# Which models run: ids, patterns of ids such as qwen3_*, or tier:fast.
name: My profile
description: ""
enabled_models:
  - tier:fast
# Further names for the gateway: alias -> model id, tier or auto.
aliases: {}
`;

const path = (slug: string) => `api/models/profiles/${encodeURIComponent(slug)}`;

interface Loaded {
  text: string;
  tag: string; // the revision that a save replaces
}

async function load(slug: string): Promise<Loaded> {
  const answer = await ask("GET", path(slug));
  const profile = (await answer.json()) as Profile;
  return { text: toText(profile), tag: answer.headers.get("ETag") ?? "" };
}

/** Saves it. Returns its slug. Raises ApiError. */
async function save(name: string, tag: string, body: object): Promise<string> {
  const isNew = name === NEW;
  const answer = await ask(isNew ? "POST" : "PUT", isNew ? "api/models/profiles" : path(name), {
    body,
    headers: tag ? { "If-Match": tag } : {},
  });
  const { message, profileName } = (await answer.json()) as Record<string, string>;
  tell(message ?? "");
  return profileName ?? name;
}

interface ServerFault {
  field: string;
  reason: string;
}

export function Editor({ name }: { name: string }) {
  const isNew = name === NEW;
  const [loaded, setLoaded] = useState<Loaded>();
  const [text, setText] = useState(isNew ? takeCopied() : "");
  const [faults, setFaults] = useState<Fault[]>([]);
  useEffect(() => {
    if (isNew) return;
    load(name).then((found) => {
      setLoaded(found);
      setText(found.text);
    }, tellError);
  }, [name]);
  const submit = async () => {
    const draft = parse(text);
    if ("fault" in draft) return setFaults([draft.fault]);
    try {
      const slug = await save(name, loaded?.tag ?? "", draft.body);
      setFaults([]);
      if (isNew) go("profiles", slug);
      else setLoaded(await load(name));
    } catch (error) {
      const found = error instanceof ApiError ? (error.details.errors as ServerFault[]) : undefined;
      if (!found) return tellError(error);
      setFaults(
        found.map(({ field, reason }) => ({
          line: lineOf(draft.document, field),
          message: `${field}: ${reason}`,
        })),
      );
    }
  };
  return (
    <>
      <p class="crumbs">
        <a href={to("profiles")}>
          <Icon name="back" /> Profiles
        </a>
      </p>
      <h1>{isNew ? "New profile" : `Profile ${name}`}</h1>
      <Sheet text={text} faults={faults} onInput={setText} />
      <Faults faults={faults} />
      {mayChange() && (
        <div class="buttons">
          <button class="primary" onClick={() => void submit()}>
            Save
          </button>
          {!isNew && <button onClick={() => copy(text)}>Copy</button>}
        </div>
      )}
    </>
  );
}

let copied = "";

/** Opens the text as a new profile, under another name. */
function copy(text: string): void {
  copied = text.replace(/^name: (["']?)/m, "name: $1Copy of ");
  go("profiles", NEW);
}

function takeCopied(): string {
  const text = copied || START;
  copied = "";
  return text;
}

interface SheetProps {
  text: string;
  faults: Fault[];
  onInput: (text: string) => void;
}

function Sheet({ text, faults, onInput }: SheetProps) {
  const numbers = useRef<HTMLDivElement>(null);
  const marked = new Set(faults.map(({ line }) => line));
  const count = text.split("\n").length;
  return (
    <div class="sheet">
      <div class="numbers" ref={numbers} aria-hidden="true">
        {Array.from({ length: count }, (_, index) => (
          <div key={index} class={marked.has(index + 1) ? "marked" : ""}>
            {index + 1}
          </div>
        ))}
      </div>
      <textarea
        class="code"
        id="sheet"
        aria-label="Profile as YAML"
        aria-describedby="faults"
        aria-invalid={faults.length > 0}
        spellcheck={false}
        wrap="off"
        readOnly={!mayChange()}
        value={text}
        onInput={(event) => onInput(event.currentTarget.value)}
        onScroll={({ currentTarget }) => {
          if (numbers.current) numbers.current.scrollTop = currentTarget.scrollTop;
        }}
      />
    </div>
  );
}

function Faults({ faults }: { faults: Fault[] }) {
  return (
    <div class="faults" id="faults" role="alert">
      {faults.map(({ line, message }) => (
        <p key={`${line} ${message}`}>
          <button class="bare problem" onClick={() => goToLine(line)}>
            Line {line}
          </button>{" "}
          {message}
        </p>
      ))}
    </div>
  );
}

function goToLine(line: number): void {
  const sheet = document.getElementById("sheet") as HTMLTextAreaElement;
  const lines = sheet.value.split("\n");
  const start = lines.slice(0, line - 1).reduce((sum, one) => sum + one.length + 1, 0);
  sheet.focus();
  sheet.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
}
