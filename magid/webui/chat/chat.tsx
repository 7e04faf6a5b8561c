// One conversation with any name that the gateway knows; kept in this browser alone.
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";

import { get, loadSession, mayRead } from "../api/request.ts";
import { confirmed } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { Icon } from "../parts/icons.tsx";
import { NoModels } from "../parts/no_models.tsx";
import { tellError } from "../parts/notices.tsx";
import { live } from "../stream/client.ts";
import { choose, clear, isBusy, model, send, stop, turns } from "./conversation.ts";
import { load } from "./picture.ts";
import { Picture, TurnView } from "./turn.tsx";

interface Listed {
  id: string;
  name?: string;
  meta?: { kind?: string };
}

/** Names to talk to: all that are not known to write no text. */
function useNames(): Listed[] {
  const [names, setNames] = useState<Listed[]>([]);
  const revision = live.value?.registry;
  useEffect(() => {
    get<{ data: Listed[] }>("v1/models").then(
      ({ data }) => setNames(data.filter(({ meta }) => (meta?.kind ?? "chat") === "chat")),
      tellError,
    );
  }, [revision]);
  return names;
}

export default function Chat() {
  const names = useNames();
  useEffect(() => {
    if (!mayRead()) loadSession().catch(tellError); // who reads no events asks what is captured
  }, []);
  const listed = names.some(({ id }) => id === model.value);
  return (
    <div class="chat">
      <div class="heading">
        <h1>Chat</h1>
        <select
          aria-label="Model"
          value={model.value}
          onChange={(event) => choose(event.currentTarget.value)}
        >
          {!listed && <option value={model.value}>{model.value}</option>}
          {names.map(({ id, name }) => (
            <option key={id} value={id}>
              {name ?? id}
            </option>
          ))}
        </select>
        <button disabled={turns.value.length === 0} onClick={() => void startAgain()}>
          New conversation
        </button>
      </div>
      <Turns />
      <Question />
    </div>
  );
}

async function startAgain(): Promise<void> {
  const text = "This one is deleted from this browser; it is kept nowhere else.";
  if (await confirmed("Begin a new conversation?", text, "Begin")) clear();
}

/** Stays at the end of an answer under way, unless the user has scrolled back. */
function Turns() {
  const end = useRef<HTMLDivElement>(null);
  const all = turns.value;
  useLayoutEffect(() => {
    const isNear = scrollY + innerHeight > document.documentElement.scrollHeight - 240;
    if (isBusy.value && isNear) end.current?.scrollIntoView({ block: "end" });
  }, [all]);
  return (
    <div class="turns" role="log" aria-label="Conversation" aria-busy={isBusy.value}>
      {all.length === 0 && <Nothing />}
      {all.map((turn, index) => (
        <TurnView key={index} turn={turn} isLive={isBusy.value && index === all.length - 1} />
      ))}
      <div ref={end} />
    </div>
  );
}

function Nothing() {
  const now = live.value;
  if (now && Object.keys(now.registry.models).length === 0) return <NoModels live={now} />;
  return (
    <Empty title="Ask something">
      <p>auto chooses a model by the question. What is said stays in this browser.</p>
    </Empty>
  );
}

function Question() {
  const [text, setText] = useState("");
  const [images, setImages] = useState<string[]>([]);
  const ask = () => {
    if (isBusy.value || (text.trim() === "" && images.length === 0)) return;
    void send(text.trim(), images);
    setText("");
    setImages([]);
  };
  const add = async (files: FileList | null) => {
    try {
      const added = await Promise.all([...(files ?? [])].map(load));
      setImages((old) => [...old, ...added]);
    } catch (error) {
      tellError(error);
    }
  };
  return (
    <form
      class="question"
      onSubmit={(event) => {
        event.preventDefault();
        ask();
      }}
    >
      {images.map((address) => (
        <Picture key={address} address={address} />
      ))}
      <textarea
        aria-label="Message"
        placeholder="Message; Shift and Enter begin a new line"
        rows={3}
        value={text}
        onInput={(event) => setText(event.currentTarget.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
          event.preventDefault();
          ask();
        }}
      />
      <div class="buttons">
        <PictureInput onFiles={(files) => void add(files)} />
        <span class="grow" />
        {isBusy.value ? (
          <button type="button" onClick={stop}>
            <Icon name="stop" /> Stop
          </button>
        ) : (
          <button class="primary">Send</button>
        )}
      </div>
    </form>
  );
}

function PictureInput({ onFiles }: { onFiles: (files: FileList | null) => void }) {
  return (
    <label class="button">
      <span>Add picture</span>
      <input
        class="hidden"
        type="file"
        accept="image/*"
        multiple
        onChange={(event) => onFiles(event.currentTarget.files)}
      />
    </label>
  );
}
