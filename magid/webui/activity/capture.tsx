// The capture of texts: switched on here, and shown with the request that they belong to.
import { useEffect, useState } from "preact/hooks";

import { ApiError, get, loadSession, mayChange, post, session } from "../api/request.ts";
import type { Captured } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { bytes } from "../parts/format.ts";
import { tellError } from "../parts/notices.tsx";
import { capturedUntil } from "../shell/capture.tsx";
import { answered, asked } from "./texts.ts";

const SECONDS = 600;
const WARNING =
  "For 10 minutes, magid keeps the texts of all requests and answers in its memory, where " +
  "administrators can read them. Each page says so, each answer tells its client, and the log " +
  "has your name. Then they are dropped.";

async function start(): Promise<void> {
  const isOn = capturedUntil() !== null;
  if (!isOn && !(await confirmed("Capture texts?", WARNING, "Capture"))) return;
  try {
    await post("api/capture", { seconds: SECONDS });
    await loadSession();
  } catch (error) {
    tellError(error);
  }
}

/** Who is not signed in is unknown to magid, which captures nothing for them. */
export function CaptureButton() {
  if (!mayChange() || !session.value?.signedIn) return null;
  return (
    <button onClick={() => void start()}>
      {capturedUntil() === null ? "Capture texts" : "Capture for 10 minutes from now"}
    </button>
  );
}

/** The texts of a request, if they are kept. */
export function CapturedTexts({ id }: { id: string }) {
  const [texts, setTexts] = useState<Captured | null>();
  const isOn = capturedUntil() !== null && mayChange();
  useEffect(() => {
    setTexts(undefined);
    if (!isOn) return;
    get<Captured>(`api/capture/${encodeURIComponent(id)}`).then(setTexts, (error: unknown) => {
      if (error instanceof ApiError && error.status === 404) setTexts(null);
      else tellError(error);
    });
  }, [id, isOn]);
  if (texts === undefined) return null;
  if (texts === null) return <p class="quiet">Its texts were not captured.</p>;
  return (
    <>
      <Text title="Asked" text={asked(texts.request)} raw={texts.request}
        size={texts.requestBytes} />
      <Text title="Answered" text={answered(texts.answer)} raw={texts.answer}
        size={texts.answerBytes} />
    </>
  );
}

interface TextProps {
  title: string;
  text: string; // for a person
  raw: string;
  size: number; // of the whole
}

function Text({ title, text, raw, size }: TextProps) {
  const isCut = new TextEncoder().encode(raw).length < size;
  return (
    <section>
      <h3>{title}</h3>
      {isCut && <p class="quiet">Only a part of its {bytes(size)} is kept.</p>}
      <pre class="captured" role="group" tabIndex={0} aria-label={title}>
        {text}
      </pre>
      {raw !== text && (
        <details>
          <summary>As it was sent</summary>
          <pre
            class="captured"
            role="group"
            tabIndex={0}
            aria-label={`${title}, as it was sent`}
          >
            {raw}
          </pre>
        </details>
      )}
    </section>
  );
}
