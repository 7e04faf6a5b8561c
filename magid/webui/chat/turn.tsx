// One turn of the conversation. All text becomes text nodes.
import { useEffect, useMemo, useRef } from "preact/hooks";

import { copy } from "../parts/copy.tsx";
import { count, rate } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { tellError } from "../parts/notices.tsx";
import type { Turn } from "./conversation.ts";
import { draw } from "./picture.ts";
import { blocks, type Block, type Inline } from "./prose.ts";

export function TurnView({ turn, isLive }: { turn: Turn; isLive: boolean }) {
  const { role, text, reasoning, images = [], problem } = turn;
  const found = useMemo(() => blocks(text), [text]);
  return (
    <article class={`turn ${role}`} aria-label={role === "user" ? "You" : "Model"}>
      {images.map((address) => (
        <Picture key={address} address={address} />
      ))}
      {reasoning && (
        <details class="reasoning">
          <summary>{isLive && text === "" ? "Thinking …" : "Reasoning"}</summary>
          <div class="prose">{reasoning}</div>
        </details>
      )}
      {role === "user" ? (
        <p class="prose">{text}</p>
      ) : (
        found.map((block, index) => <BlockView key={index} block={block} />)
      )}
      {problem && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      {isLive && text === "" && !reasoning && <span class="state busy">
        <Icon name="busy" spins /> Waiting for the model
      </span>}
      {role === "assistant" && !isLive && <About turn={turn} />}
    </article>
  );
}

function BlockView({ block }: { block: Block }) {
  switch (block.kind) {
    case "code":
      return (
        <div class="argv">
          <pre tabIndex={0} aria-label={`Code ${block.language}`}>
            {block.text}
          </pre>
          <button class="bare" aria-label="Copy the code" onClick={() => void copy(block.text)}>
            <Icon name="copy" />
          </button>
        </div>
      );
    case "list":
      return (
        <ul class="bullets">
          {block.items.map((item, index) => (
            <li key={index}>
              <Parts parts={item} />
            </li>
          ))}
        </ul>
      );
    case "heading":
      return (
        <p class="prose">
          <strong>
            <Parts parts={block.parts} />
          </strong>
        </p>
      );
    case "paragraph":
      return (
        <p class="prose">
          <Parts parts={block.parts} />
        </p>
      );
  }
}

function Parts({ parts }: { parts: Inline[] }) {
  return (
    <>
      {parts.map(({ kind, text }, index) => {
        if (kind === "code") return <code key={index}>{text}</code>;
        return kind === "strong" ? <strong key={index}>{text}</strong> : text;
      })}
    </>
  );
}

function About({ turn: { about, timings, text } }: { turn: Turn }) {
  return (
    <p class="about quiet">
      {about?.model && <span>{about.model}</span>}
      {about?.route && <span>{about.route}</span>}
      {timings && (
        <span>
          {count(timings.tokens)} tokens, {rate(timings.perSecond)} a second
        </span>
      )}
      {text && (
        <button class="bare" aria-label="Copy the answer" onClick={() => void copy(text)}>
          <Icon name="copy" />
        </button>
      )}
    </p>
  );
}

export function Picture({ address }: { address: string }) {
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    if (canvas.current) draw(address, canvas.current).catch(tellError);
  }, [address]);
  return <canvas class="picture" ref={canvas} role="img" aria-label="Picture" />;
}
