// The lines of a log, as server-sent events: the last ones, then each new one.
import { Pacer } from "../stream/pacer.ts";

export interface LogLine {
  cursor: string;
  timestamp: string;
  message: string;
  level?: string;
}

/** `open`, then perhaps `lost`: it comes back by itself. `none`: there is no such log. */
export type FeedState = "connecting" | "open" | "lost" | "none";

export interface LogFeed {
  close: () => void;
}

/** Follows a log. `take` gets new lines, oldest first; each is told once. */
export function follow(
  path: string,
  take: (lines: LogLine[]) => void,
  tell: (state: FeedState) => void,
): LogFeed {
  const stream = new EventSource(new URL(path, document.baseURI));
  let gathered: LogLine[] = [];
  const pacer = new Pacer(() => {
    take(gathered);
    gathered = [];
  });
  stream.addEventListener("open", () => tell("open"));
  stream.addEventListener("log", ({ data }: MessageEvent<string>) => {
    gathered.push(JSON.parse(data) as LogLine);
    pacer.ask();
  });
  // An EventSource connects again, and says where it was; after a refusal it does not.
  stream.addEventListener("error", () =>
    tell(stream.readyState === EventSource.CLOSED ? "none" : "lost"),
  );
  return {
    close: () => {
      pacer.stop();
      stream.close();
    },
  };
}
