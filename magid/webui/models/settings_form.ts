// The form of a model's settings, made from the schema of the API's body. Pure.

/** One property of the body: its bounds and words, as /openapi.json has them. */
export interface SettingSchema {
  description: string;
  anyOf: { type: string; enum?: string[]; minimum?: number; maximum?: number }[];
  "x-allowed"?: string;
  "x-unset"?: string;
  "x-example"?: string;
}

export type Kind = "whole" | "choice" | "text" | "words";

export function kindOf(schema: SettingSchema): Kind {
  const [first] = schema.anyOf;
  if (first?.enum) return "choice";
  if (first?.type === "integer") return "whole";
  return first?.type === "array" ? "words" : "text";
}

const LONG: Record<string, string> = { ctx: "context", gpu: "GPU", cpu: "CPU" };

/** nGpuLayers is "GPU layers", stage1Tier "Stage 1 tier". */
export function titleOf(key: string): string {
  const parts = key.split(/(?=[A-Z]|(?<=[a-z])\d)/);
  const [first = "", ...rest] = parts.map((word) => word.toLowerCase());
  const words = (first === "n" ? rest : [first, ...rest]).map((word) => LONG[word] ?? word);
  const title = words.join(" ");
  return title.charAt(0).toUpperCase() + title.slice(1);
}

/** A value as it stands in a field. */
export function shown(value: unknown): string {
  if (value === null || value === undefined) return "";
  if (Array.isArray(value)) return value.map((word) => quoted(String(word))).join(" ");
  return typeof value === "string" ? value : JSON.stringify(value);
}

function quoted(word: string): string {
  return /^[^\s"']+$/.test(word) ? word : `"${word.replace(/(["\\])/g, "\\$1")}"`;
}

const FACTORS: Record<string, number> = { K: 2 ** 10, M: 2 ** 20, G: 2 ** 30, T: 2 ** 40 };

/** What a field says; an empty one is null, which is "back to the default". Raises Error. */
export function parsed(text: string, kind: Kind): unknown {
  const trimmed = text.trim();
  if (trimmed === "") return null;
  if (kind === "words") return words(trimmed);
  return kind === "whole" ? whole(trimmed) : trimmed;
}

/** 24G is 24 GiB; `-1` and `4096` are themselves. */
function whole(text: string): number {
  const match = /^(-?\d+)([KMGT])?i?B?$/i.exec(text);
  const number = Number(match?.[1]) * (FACTORS[match?.[2]?.toUpperCase() ?? ""] ?? 1);
  if (!match || !Number.isSafeInteger(number)) {
    throw new Error("should be a whole number, or one with K, M, G or T");
  }
  return number;
}

/** Words as a shell has them: blanks within quotes belong to the word. Raises Error. */
function words(text: string): string[] {
  const found: string[] = [];
  const pattern = /\s*((?:"(?:\\.|[^"\\])*"|'[^']*'|[^\s"'])+)\s*/gy;
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (match?.[1] === undefined) throw new Error("has a quote without an end");
    found.push(match[1].replace(/"((?:\\.|[^"\\])*)"|'([^']*)'/g, unquoted));
  }
  return found;
}

function unquoted(_whole: string, double: string | undefined, single: string | undefined): string {
  return single ?? (double ?? "").replace(/\\(.)/g, "$1");
}

/** The fields that differ from what is in force, as a body. Raises FieldError. */
export function changes(
  fields: Record<string, string>,
  before: Record<string, unknown>,
  schemas: Record<string, SettingSchema>,
): Record<string, unknown> {
  const body: Record<string, unknown> = {};
  for (const [key, text] of Object.entries(fields)) {
    const schema = schemas[key];
    if (schema === undefined || text.trim() === shown(before[key])) continue;
    try {
      body[key] = parsed(text, kindOf(schema));
    } catch (error) {
      throw new FieldError(key, (error as Error).message);
    }
  }
  return body;
}

export class FieldError extends Error {
  constructor(
    readonly key: string,
    message: string,
  ) {
    super(message);
  }
}
