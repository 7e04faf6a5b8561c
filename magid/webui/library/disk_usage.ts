// What the disk holds: asked for when the view opens, and after what the stream says has
// changed it.
import { useEffect, useMemo, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Disk } from "../api/types.ts";
import { connection, live } from "../stream/client.ts";

export interface DiskUsage {
  reply: Disk | undefined;
  problem: string;
  lookAgain: () => void;
}

export function useDisk(): DiskUsage {
  const [reply, setReply] = useState<Disk>();
  const [problem, setProblem] = useState("");
  const [asked, setAsked] = useState(0);
  const revision = useRevision();
  useEffect(() => {
    if (live.peek() === undefined) return;
    const abort = new AbortController();
    get<Disk>("api/library/disk", abort.signal).then(
      (answer) => {
        setReply(answer);
        setProblem("");
      },
      (error: Error) => abort.signal.aborted || setProblem(error.message),
    );
    return () => abort.abort();
  }, [revision, asked]);
  return { reply, problem, lookAgain: () => setAsked(asked + 1) };
}

/** Changes with the models, with the states of downloads, and when magid is back. */
function useRevision(): string {
  const now = live.value;
  const models = now?.registry.models;
  const ids = useMemo(() => Object.keys(models ?? {}).sort().join(" "), [models]);
  const states = Object.values(now?.downloads ?? {}).map(({ id, state }) => `${id} ${state}`);
  return JSON.stringify([connection.value, now?.phase, ids, states.sort()]);
}
