// Requests to list: filtered, and exported. Pure.
import type { GatewayRequest } from "../api/types.ts";

export interface RequestFilter {
  text: string;
  outcome: string; // empty: all
}

export const isRunning = (request: GatewayRequest): boolean => request.outcome === "running";

/** How a request ended, with the reason that magid has given: "refused: model not found". */
export function outcomeOf({ outcome, code, status }: GatewayRequest): string {
  if (code) return `${outcome}: ${code.replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase()}`;
  return status !== null && status >= 400 ? `${outcome}: ${status}` : outcome;
}

/** What to filter by: each outcome, and below it its reasons. */
export function outcomesOf(requests: GatewayRequest[]): string[] {
  const all = requests.flatMap((request) => [request.outcome, outcomeOf(request)]);
  return [...new Set(all)].sort();
}

const SEARCHED = ["model", "modelId", "token", "path", "id", "code", "error"] as const;

export function chosen(requests: GatewayRequest[], filter: RequestFilter): GatewayRequest[] {
  const text = filter.text.toLowerCase();
  const { outcome } = filter;
  return requests.filter(
    (request) =>
      (outcome === "" || request.outcome === outcome || outcomeOf(request) === outcome) &&
      SEARCHED.map((name) => request[name])
        .join(" ")
        .toLowerCase()
        .includes(text),
  );
}

const COLUMNS = [
  "at", "id", "path", "token", "model", "modelId", "tier", "route", "status", "outcome", "code",
  "error", "waitedSeconds", "firstTokenSeconds", "durationSeconds", "promptTokens",
  "cachedTokens", "answerTokens", "tokensPerSecond",
] as const;

/** RFC 4180. A text that a spreadsheet would take for a formula gets an apostrophe before it. */
export function toCsv(requests: GatewayRequest[]): string {
  const rows = requests.map((request) => COLUMNS.map((column) => cell(request[column])));
  return [COLUMNS, ...rows].map((row) => row.join(",")).join("\r\n") + "\r\n";
}

function cell(value: string | number | null): string {
  if (value === null) return "";
  if (typeof value === "number") return String(value);
  const safe = /^[=+\-@\t\r]/.test(value) ? `'${value}` : value;
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}
