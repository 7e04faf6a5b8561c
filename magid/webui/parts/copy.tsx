// A command to copy.
import { tell } from "./notices.tsx";
import { Icon } from "./icons.tsx";

export function Command({ text }: { text: string }) {
  return (
    <span class="command">
      <code>{text}</code>
      <button class="bare" aria-label={`Copy: ${text}`} onClick={() => void copy(text)}>
        <Icon name="copy" />
      </button>
    </span>
  );
}

/** The clipboard needs a page that came over TLS or from this machine. */
export async function copy(text: string): Promise<void> {
  try {
    await navigator.clipboard.writeText(text);
    tell("Copied");
  } catch {
    tell("cannot copy: the browser allows it only over https or on localhost", "bad");
  }
}
