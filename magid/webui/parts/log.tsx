// A log that is followed: paused, searched, by level.
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";

import { connection } from "../stream/client.ts";
import { useDrawn } from "./drawn.ts";
import { moment } from "./format.ts";
import { follow, type FeedState, type LogLine } from "./log_feed.ts";
import { useLogTurn } from "./log_turns.ts";

const KEPT = 2_000;
const FIRST = 500;
const LEVELS = ["debug", "info", "warning", "error", "critical"];

const SAID: Record<FeedState, string> = {
  connecting: "Connecting",
  open: "Following",
  lost: "Connection lost; it comes back by itself",
  none: "No log yet: start the model first",
};

const LEFT_OUT = "Paused: other tabs follow logs; this one goes on when you come back to it";

interface Props {
  path: string; // of the API, without a query
  label: string;
  hasLevels?: boolean;
  height?: "tall" | "short";
}

export function Log({ path, label, hasLevels = false, height = "tall" }: Props) {
  const [lines, setLines] = useState<LogLine[]>([]);
  const [state, setState] = useState<FeedState>("connecting");
  const [isPaused, setPaused] = useState(false);
  const [text, setText] = useState("");
  const [level, setLevel] = useState("debug");
  const [isFollowed, takeTurn] = useLogTurn(!isPaused);
  const isBack = connection.value === "open"; // after a refusal: magid may have started again
  useEffect(() => {
    if (isPaused || !isFollowed) return;
    setState("connecting");
    let isFresh = true;
    const take = (fresh: LogLine[]) => {
      const replaces = isFresh;
      isFresh = false;
      setLines((old) => [...(replaces ? [] : old), ...fresh].slice(-KEPT));
    };
    const feed = follow(`${path}?follow=true&lines=${FIRST}`, take, setState);
    return () => feed.close();
  }, [path, isPaused, isFollowed, isBack]);
  const shown = useMemo(() => matching(lines, text, level), [lines, text, level]);
  return (
    <div class={`log ${height}`}>
      <div class="filters">
        <input
          type="search"
          placeholder="Search"
          aria-label={`Search ${label}`}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
        />
        {hasLevels && <Level value={level} onChange={setLevel} />}
        {isPaused || isFollowed ? (
          <button aria-pressed={isPaused} onClick={() => setPaused(!isPaused)}>
            {isPaused ? "Go on" : "Pause"}
          </button>
        ) : (
          <button onClick={takeTurn}>Go on</button>
        )}
        <span class="quiet" role="status">
          {isPaused ? "Paused" : isFollowed ? SAID[state] : LEFT_OUT}
        </span>
      </div>
      <Lines lines={shown} label={label} />
    </div>
  );
}

function matching(lines: LogLine[], text: string, least: string): LogLine[] {
  const wanted = text.toLowerCase();
  const lowest = LEVELS.indexOf(least);
  return lines.filter(
    ({ message, level }) =>
      (level === undefined || LEVELS.indexOf(level) >= lowest) &&
      (wanted === "" || message.toLowerCase().includes(wanted)),
  );
}

function Level({ value, onChange }: { value: string; onChange: (level: string) => void }) {
  return (
    <select
      aria-label="Level"
      value={value}
      onChange={(event) => onChange(event.currentTarget.value)}
    >
      {LEVELS.map((level) => (
        <option key={level} value={level}>
          {level === "debug" ? "All levels" : `${level} and above`}
        </option>
      ))}
    </select>
  );
}

/** Stays at the end while it is at the end: who scrolls back reads on undisturbed. */
function Lines({ lines, label }: { lines: LogLine[]; label: string }) {
  const element = useRef<HTMLDivElement>(null);
  const isAtEnd = useRef(true);
  useLayoutEffect(() => {
    const box = element.current;
    if (box && isAtEnd.current) box.scrollTop = box.scrollHeight;
  }, [lines.at(-1)?.cursor, lines.length]);
  const look = ({ currentTarget: box }: { currentTarget: HTMLElement }) => {
    isAtEnd.current = box.scrollTop + box.clientHeight > box.scrollHeight - 24;
  };
  const drawn = useDrawn(lines, (line) => <Line key={line.cursor} line={line} />);
  return (
    <div class="lines" ref={element} role="log" aria-label={label} tabIndex={0} onScroll={look}>
      {drawn}
    </div>
  );
}

function Line({ line: { timestamp, message, level } }: { line: LogLine }) {
  return (
    <div class={level ? `line-${level}` : ""}>
      <time dateTime={timestamp}>{moment(timestamp)}</time>{" "}
      {level && level !== "info" && <strong>{level} </strong>}
      {message}
    </div>
  );
}
