// One connection to the dashboard stream, that comes back by itself. Runs in the shared worker, or
// in the page where a browser has no shared workers.
import { applied, KINDS, type Live, type LiveEvent } from "./state.ts";

/** `signedOut`: magid wants a token; a retry comes only when it is asked for. */
export type Connection = "connecting" | "open" | "lost" | "signedOut";

export type Message =
  | { type: "connection"; connection: Connection; since: number }
  | { type: "live"; live: Live }
  | { type: "event"; event: LiveEvent };

const FIRST_RETRY_MS = 500;
const LAST_RETRY_MS = 5_000;

export class LiveSource {
  live: Live | undefined;
  connection: Connection = "connecting";
  since = Date.now();
  #stream: EventSource | undefined;
  #retry: ReturnType<typeof setTimeout> | undefined;
  #delay = FIRST_RETRY_MS;

  /** `base` is the address of the page, with a slash at its end. */
  constructor(
    readonly base: string,
    readonly send: (message: Message) => void,
  ) {}

  /** Connects now, whatever was there before. */
  open(): void {
    clearTimeout(this.#retry);
    this.#stream?.close();
    const stream = new EventSource(new URL("api/events", this.base));
    this.#stream = stream;
    for (const kind of KINDS) {
      stream.addEventListener(kind, (event) => this.#take(kind, event.data as string));
    }
    stream.addEventListener("resync", () => this.open());
    stream.addEventListener("error", () => void this.#failed(stream));
  }

  #take(kind: string, data: string): void {
    const event: LiveEvent = { kind, data: JSON.parse(data) as Record<string, unknown> };
    this.live = applied(this.live, event);
    if (kind === "snapshot") {
      this.#delay = FIRST_RETRY_MS;
      this.#be("open");
    }
    this.send({ type: "event", event });
  }

  /** Retries by itself: an EventSource gives up after an answer that is no stream. */
  async #failed(stream: EventSource): Promise<void> {
    stream.close();
    const isSignedOut = await needsToken(this.base);
    if (this.#stream !== stream) return; // a later one was opened meanwhile
    if (isSignedOut) {
      this.live = undefined;
      this.#be("signedOut");
      return;
    }
    this.#be("lost");
    this.#retry = setTimeout(() => this.open(), this.#delay);
    this.#delay = Math.min(LAST_RETRY_MS, this.#delay * 2);
  }

  #be(connection: Connection): void {
    if (connection !== this.connection) this.since = Date.now();
    this.connection = connection;
    this.send({ type: "connection", connection, since: this.since });
  }
}

/** Whether magid answers, and wants a token that this browser has not shown. */
async function needsToken(base: string): Promise<boolean> {
  try {
    const answer = await fetch(new URL("api/session", base), { cache: "no-store" });
    if (!answer.ok) return false;
    return ((await answer.json()) as { access: string }).access === "none";
  } catch {
    return false; // not reachable
  }
}
