// Which tabs of a browser follow a log. A log that is followed holds a connection, and a browser
// has six to a server for all its tabs: so it is the tabs that were looked at last.
import { useEffect, useRef, useState } from "preact/hooks";

/** The stream of events has one more, and questions the others. */
const MOST = 2;

interface Said {
  id: string; // of a tab's log
  follows: boolean;
}

/** One log's turn, from when it is made. */
class LogTurn {
  readonly #id = `${Date.now()} ${Math.random()}`;
  readonly #later = new Set<string>(); // the logs that took a turn after this one
  #hasTaken = false; // a tab that was opened in the background, and not looked at yet, has not
  readonly #channel = new BroadcastChannel("magid-logs");

  constructor(readonly tell: (isFollowed: boolean) => void) {
    this.#channel.onmessage = ({ data: { id, follows } }: MessageEvent<Said>) => {
      if (follows) this.#later.add(id);
      else this.#later.delete(id);
      if (this.#hasTaken) tell(this.#later.size < MOST);
    };
    addEventListener("focus", this.take);
    document.addEventListener("visibilitychange", this.#look);
    addEventListener("pagehide", this.#leave);
    if (document.hidden) tell(false);
    else this.take();
  }

  /** Others that have followed for longest end. */
  readonly take = (): void => {
    this.#hasTaken = true;
    this.#later.clear();
    this.#say(true);
    this.tell(true);
  };

  close(): void {
    removeEventListener("focus", this.take);
    document.removeEventListener("visibilitychange", this.#look);
    removeEventListener("pagehide", this.#leave);
    this.#leave();
    this.#channel.close();
  }

  readonly #look = (): void => {
    if (!document.hidden) this.take();
  };

  readonly #leave = (): void => this.#say(false);

  #say(follows: boolean): void {
    this.#channel.postMessage({ id: this.#id, follows } satisfies Said);
  }
}

/** Whether this log is followed now, and what takes the turn back. None is taken unless wanted. */
export function useLogTurn(isWanted: boolean): [boolean, () => void] {
  const [isFollowed, setFollowed] = useState(() => !document.hidden);
  const turn = useRef<LogTurn>(undefined);
  useEffect(() => {
    if (!isWanted) return;
    const taken = new LogTurn(setFollowed);
    turn.current = taken;
    return () => taken.close();
  }, [isWanted]);
  return [isFollowed, () => turn.current?.take()];
}
