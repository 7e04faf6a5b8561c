// Says when the page has lost magid, and that it comes back by itself.
import { connection, connectedSince, retry } from "../stream/client.ts";
import { Icon } from "../parts/icons.tsx";
import { moment } from "../parts/format.ts";

const WORDS = {
  open: "Live",
  connecting: "Connecting",
  lost: "Connection lost",
  signedOut: "Signed out",
} as const;

export function ConnectionState() {
  const now = connection.value;
  const tone = now === "open" ? "good" : now === "connecting" ? "busy" : "bad";
  const icon = now === "open" ? "ready" : now === "connecting" ? "busy" : "failed";
  return (
    <span class={`state ${tone}`} role="status" aria-label={`Connection: ${WORDS[now]}`}>
      <Icon name={icon} spins={icon === "busy"} />
      {WORDS[now]}
    </span>
  );
}

export function ConnectionBanner() {
  if (connection.value !== "lost") return null;
  const at = moment(new Date(connectedSince.value).toISOString());
  return (
    <div class="banner bad" role="alert">
      <Icon name="failed" />
      <span>
        No connection to magid since {at}. What is shown may be old; the page connects again by
        itself.
      </span>
      <button onClick={retry}>Try now</button>
    </div>
  );
}
