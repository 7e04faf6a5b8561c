// A profile as text: YAML with the keys of the files, and where in it an error is. Pure.
import { isMap, isSeq, LineCounter, parseDocument, stringify, type Document } from "yaml";

import type { Profile } from "../api/types.ts";

export const NEW = "+new"; // no profile's name: it has a sign that names cannot have

export interface Fault {
  line: number; // from 1
  message: string;
}

/** What a text says, or what is wrong with it. */
export type Draft = { body: Record<string, unknown>; document: Text } | { fault: Fault };

interface Text {
  document: Document;
  lines: LineCounter;
}

/** The profile's file, as a person writes it. */
export function toText(profile: Profile): string {
  const { active, missingModels, ...own } = profile;
  return stringify(renamed(own, snake), { lineWidth: 96 });
}

/** Raises nothing: a text that cannot be read has a fault. */
export function parse(text: string): Draft {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, version: "1.1", merge: false });
  const [error] = [...document.errors, ...document.warnings];
  if (error) return { fault: { line: lines.linePos(error.pos[0]).line, message: said(error) } };
  const value: unknown = document.toJS({ maxAliasCount: 0 });
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return { fault: { line: 1, message: "should be keys with values, as in `name: My profile`" } };
  }
  const body = renamed(value, camel) as Record<string, unknown>;
  return { body, document: { document, lines } };
}

/** The library adds an excerpt of the text, which stands beside the message anyway. */
function said(error: Error): string {
  return (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
}

/** Where a field of the body is in the text: the nearest part of its path that is there. */
export function lineOf({ document, lines }: Text, field: string): number {
  let node: unknown = document.contents;
  let at = 0;
  for (const part of field.split(/[.[\]]+/).filter(Boolean)) {
    if (isSeq(node)) {
      node = node.items[Number(part)];
      at = start(node) ?? at;
    } else if (isMap(node)) {
      const pair = node.items.find(({ key }) => camel(String(key)) === camel(part));
      at = start(pair?.key) ?? at;
      node = pair?.value;
    }
    if (!isMap(node) && !isSeq(node)) return lines.linePos(start(node) ?? at).line;
  }
  return lines.linePos(at).line;
}

function start(node: unknown): number | undefined {
  return (node as { range?: [number, number, number] } | undefined)?.range?.[0];
}

// What the user names himself keeps its spelling: aliases, weights, and what is below them.
const FREE = new Set(["aliases", "weights"]);

function renamed(value: unknown, rename: (key: string) => string): unknown {
  if (Array.isArray(value)) return value.map((item) => renamed(item, rename));
  if (typeof value !== "object" || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => [
      rename(key),
      FREE.has(key) ? (inner as unknown) : renamed(inner, rename),
    ]),
  );
}

const snake = (key: string) => key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
const camel = (key: string) =>
  key.replace(/_([a-z0-9])/g, (_all, letter: string) => letter.toUpperCase());
