// Numbers, sizes and times as the browser's language has them. Pure.
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

const number = (digits: number) =>
  new Intl.NumberFormat(undefined, {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
const WHOLE = number(0);
const TENTHS = number(1);

/** 4508876800 is "4.2 GiB"; nothing is a dash. */
export function bytes(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  let power = 0;
  let left = value;
  while (left >= 1000 && power < UNITS.length - 1) {
    left /= 1024;
    power += 1;
  }
  const shown = power === 0 || left >= 100 ? WHOLE : TENTHS;
  return `${shown.format(left)} ${UNITS[power] ?? ""}`;
}

export function count(value: number | null | undefined): string {
  return value === null || value === undefined ? "–" : WHOLE.format(value);
}

/** One digit after the point below 100. */
export function rate(value: number | null | undefined): string {
  if (value === null || value === undefined) return "–";
  return (value < 100 ? TENTHS : WHOLE).format(value);
}

/** 3725 seconds are "1 h 2 min"; two units at most. */
export function duration(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  const whole = Math.floor(seconds);
  if (whole < 60) return `${whole} s`;
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return joined(hours, "h", minutes % 60, "min");
  return joined(Math.floor(hours / 24), "d", hours % 24, "h");
}

function joined(large: number, unit: string, small: number, smaller: string): string {
  return small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${smaller}`;
}

/** Seconds as a request takes them: "42 ms", "1.3 s", "2 min". */
export function span(seconds: number | null | undefined): string {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 1) return `${WHOLE.format(seconds * 1000)} ms`;
  return seconds < 60 ? `${TENTHS.format(seconds)} s` : duration(seconds);
}

const TIME = new Intl.DateTimeFormat(undefined, {
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
});
const MOMENT = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });

/** The time of day; with the date if `now` is more than a day away. */
export function moment(text: string | null | undefined, now = Date.now()): string {
  if (!text) return "–";
  const at = new Date(text);
  const isNear = Math.abs(now - at.getTime()) < 86_400_000;
  return (isNear ? TIME : MOMENT).format(at);
}

/** Orders names: B2 before B10. */
export const byName = new Intl.Collator(undefined, { numeric: true }).compare;

/** "1 server", "2 servers". */
export function counted(value: number, one: string, more = `${one}s`): string {
  return `${count(value)} ${value === 1 ? one : more}`;
}
