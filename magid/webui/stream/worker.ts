// The shared worker: one connection to magid for all tabs of a browser. It keeps the state, so
// that a new tab gets all of it at once.
import { LiveSource, type Message } from "./source.ts";

/** What a tab says: it is going away, or the user wants to connect again now. */
export type TabMessage = "bye" | "retry";

interface SharedScope {
  onconnect: ((event: MessageEvent) => void) | null;
  location: { href: string };
}

const scope = self as unknown as SharedScope;
const tabs = new Set<MessagePort>();
const source = new LiveSource(new URL("..", scope.location.href).href, (message) => {
  for (const tab of tabs) tab.postMessage(message);
});

scope.onconnect = ({ ports: [tab] }) => {
  if (tab === undefined) return;
  tabs.add(tab);
  tab.onmessage = ({ data }: MessageEvent<TabMessage>) => {
    if (data === "bye") tabs.delete(tab);
    else source.open();
  };
  const { live, connection, since } = source;
  if (live !== undefined) tab.postMessage({ type: "live", live } satisfies Message);
  tab.postMessage({ type: "connection", connection, since } satisfies Message);
};
source.open();
