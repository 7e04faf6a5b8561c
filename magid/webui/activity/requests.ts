// Requests to list: filtered, and exported. Pure.
import type { GatewayRequest } from "../api/types.ts";

export interface RequestFilter {
  text: string;
  outcome: string; // empty: all
}

export const isRunning = (request: GatewayRequest): boolean => request.outcome === "running";

export function chosen(requests: GatewayRequest[], filter: RequestFilter): GatewayRequest[] {
  const text = filter.text.toLowerCase();
  return requests.filter(
    (request) =>
      (filter.outcome === "" || request.outcome === filter.outcome) &&
      [request.model, request.modelId, request.token, request.path, request.id, request.error]
        .join(" ")
        .toLowerCase()
        .includes(text),
  );
}

const COLUMNS = [
  "at", "id", "path", "token", "model", "modelId", "tier", "route", "status", "outcome", "error",
  "waitedSeconds", "firstTokenSeconds", "durationSeconds", "promptTokens", "cachedTokens",
  "answerTokens", "tokensPerSecond",
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
