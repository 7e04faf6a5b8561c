// Short messages at the edge of the page: what was done, and what was refused.
import { signal } from "@preact/signals";

import { ApiError } from "../api/request.ts";
import { Icon } from "./icons.tsx";

interface Notice {
  id: number;
  kind: "good" | "bad";
  text: string;
}

const SHOWN_MS = 6_000; // an error stays until it is closed

const notices = signal<Notice[]>([]);
let last = 0;

export function tell(text: string, kind: Notice["kind"] = "good"): void {
  const id = ++last;
  notices.value = [...notices.value.slice(-3), { id, kind, text }];
  if (kind === "good") setTimeout(() => dismiss(id), SHOWN_MS);
}

/** Shows why something was refused. */
export function tellError(error: unknown): void {
  if (error instanceof ApiError || error instanceof Error) tell(error.message, "bad");
  else tell(String(error), "bad");
}

/** Does it, and shows the message of magid's answer, or why it was refused. */
export async function act(doIt: () => Promise<{ message: string }>): Promise<boolean> {
  try {
    tell((await doIt()).message);
    return true;
  } catch (error) {
    tellError(error);
    return false;
  }
}

function dismiss(id: number): void {
  notices.value = notices.value.filter((notice) => notice.id !== id);
}

export function Notices() {
  return (
    <div class="notices" role="status" aria-live="polite">
      {notices.value.map((notice) => (
        <div key={notice.id} class={`notice ${notice.kind}`}>
          <Icon name={notice.kind === "good" ? "ready" : "failed"} />
          <p>{notice.text}</p>
          <button class="bare" aria-label="Close this message" onClick={() => dismiss(notice.id)}>
            <Icon name="close" />
          </button>
        </div>
      ))}
    </div>
  );
}
