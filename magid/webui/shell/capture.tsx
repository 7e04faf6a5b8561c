// Says in each view that texts are captured, and until when; an administrator can end it there.
import { effect } from "@preact/signals";

import { loadSession, mayChange, mayRead, remove, session } from "../api/request.ts";
import { moment } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { tell, tellError } from "../parts/notices.tsx";
import { live } from "../stream/client.ts";

export const capturedUntil = (): string | null => session.value?.capturedUntil ?? null;

/** Called once. Who has no stream of events is told when the chat is opened, and with answers. */
export function followCapture(): void {
  let known = "";
  effect(() => {
    const found = live.value?.conditions.find(({ code }) => code === "CapturingTexts");
    const now = found?.message ?? "";
    if (now === known) return;
    known = now;
    if (mayRead()) void loadSession().catch(tellError);
  });
}

export async function endCapture(): Promise<void> {
  try {
    await remove("api/capture");
    await loadSession();
    tell("The capture has ended, and its texts are dropped");
  } catch (error) {
    tellError(error);
  }
}

export function CaptureBanner() {
  const until = capturedUntil();
  if (until === null) return null;
  return (
    <div class="banner warn" role="alert">
      <Icon name="info" />
      <span>
        Texts are captured until {moment(until)}: administrators can read what is asked and
        answered.
      </span>
      {mayChange() && <button onClick={() => void endCapture()}>End and drop them</button>}
    </div>
  );
}

export function CaptureTag() {
  return capturedUntil() === null ? null : <span class="tag warn">Texts captured</span>;
}
