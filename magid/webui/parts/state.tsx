// The state of a server: an icon, a word and a colour.
import type { ServerState } from "../api/types.ts";
import { Icon, type IconName } from "./icons.tsx";

/** What a row shows: a server's state, or why there is none. */
export type ShownState = ServerState | "queued" | "off" | "asleep";
type Tone = "good" | "busy" | "bad" | "quiet";

export const STATES: Record<ShownState, { word: string; icon: IconName; tone: Tone }> = {
  ready: { word: "Ready", icon: "ready", tone: "good" },
  loading: { word: "Loading", icon: "busy", tone: "busy" },
  starting: { word: "Starting", icon: "busy", tone: "busy" },
  stopping: { word: "Stopping", icon: "busy", tone: "busy" },
  queued: { word: "Waiting", icon: "waiting", tone: "busy" },
  backoff: { word: "Restarts soon", icon: "waiting", tone: "bad" },
  failed: { word: "Failed", icon: "failed", tone: "bad" },
  stopped: { word: "Stopped", icon: "stopped", tone: "quiet" },
  asleep: { word: "On demand", icon: "off", tone: "quiet" },
  off: { word: "Disabled", icon: "off", tone: "quiet" },
};

export function StateBadge({ state, why = "" }: { state: ShownState; why?: string }) {
  const { word, icon, tone } = STATES[state];
  return (
    <span class={`state ${tone}`} title={why || undefined}>
      <Icon name={icon} spins={icon === "busy"} />
      {word}
    </span>
  );
}
