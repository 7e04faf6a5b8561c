// A profile's text: what it says, and changes of it that leave the rest as a person wrote it. Pure.
import {
  Document,
  isMap,
  isScalar,
  isSeq,
  LineCounter,
  parseDocument,
  type Pair,
  type ToStringOptions,
  type YAMLMap,
} from "yaml";

export const NEW = "+new"; // no profile's name: it has a sign that names cannot have

export interface Fault {
  line: number | null; // from 1; null: of the whole text
  field: string; // the key as in the text, `tier_config[0].max_score`; "": none
  reason: string;
}

export type Values = Record<string, unknown>;
export type Path = (string | number)[];

// As magid reads files, which has fewer words for true, false and numbers than YAML 1.1.
const OPTIONS = { version: "1.2", schema: "core", merge: false, prettyErrors: true } as const;
const PRINTED = { lineWidth: 0, flowCollectionPadding: false } as const;

/** What a text says, with the keys of files, or why it cannot be read. Raises nothing. */
export function parse(text: string): Read {
  const found = read(text);
  return "value" in found ? { value: renamed(found.value) as Values } : found;
}

export type Read = { value: Values } | { fault: Fault };

/** As `parse`, with the keys as they are. */
export function read(text: string): Read {
  const lines = new LineCounter();
  const document = parseDocument(text, { ...OPTIONS, lineCounter: lines });
  const [error] = [...document.errors, ...document.warnings];
  const refused = (line: number, reason: string) => ({ fault: { line, field: "", reason } });
  if (error) return refused(lines.linePos(error.pos[0]).line, said(error));
  try {
    const value: unknown = document.toJS({ maxAliasCount: 0 });
    if (value === null) return { value: {} };
    if (isValues(value)) return { value };
  } catch (error) {
    return refused(1, (error as Error).message); // an alias
  }
  return refused(1, "should be keys with values, as in `name: My profile`");
}

/** The library adds an excerpt of the text, which stands beside the message anyway. */
function said(error: Error): string {
  return (error.message.split("\n")[0] ?? "").replace(/ at line \d+, column \d+:?$/, "");
}

export function isValues(value: unknown): value is Values {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// What the user names himself keeps its spelling: aliases, weights, and what is below them.
const FREE = new Set(["aliases", "weights"]);

function renamed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(renamed);
  if (!isValues(value)) return value;
  const entries = Object.entries(value);
  return Object.fromEntries(
    entries.map(([key, inner]) => [snake(key), FREE.has(key) ? inner : renamed(inner)]),
  );
}

/** The key of files for one of the API. */
export const snake = (key: string) =>
  key.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);

/** `tier_config[0].max_score`, as magid names fields. */
export function fieldOf(path: Path): string {
  const words = path.map((part) => (typeof part === "number" ? `[${part}]` : `.${part}`));
  return words.join("").replace(/^\./, "");
}

/** The faults of this field and of those in it. */
export function faultsAt(faults: Fault[], path: Path): Fault[] {
  const field = fieldOf(path);
  return faults.filter(({ field: at }) => {
    const own = snake(at);
    return own === field || own.startsWith(`${field}.`) || own.startsWith(`${field}[`);
  });
}

// -- changes -------------------------------------------------------------------------------------

/** The text with this value at this path; undefined takes the key out.
 *
 * Only the lines of the top key change, and of its values those that differ: comments stay.
 */
export function changed(text: string, path: Path, value: unknown): string {
  return edited(text, path, (document, at) => {
    if (value === undefined) document.deleteIn(at);
    else document.setIn(at, merged(document, document.getIn(at, true), value));
  });
}

/** The text with another name for the key at this path, which stays where it is. */
export function withName(text: string, path: Path, name: string): string {
  return edited(text, path, (document, at) => {
    const mapping = document.getIn(at.slice(0, -1), true) as YAMLMap;
    const pair = mapping.items.find(({ key }) => String(key) === at.at(-1));
    if (isScalar(pair?.key)) pair.key.value = name;
  });
}

function edited(text: string, path: Path, edit: (document: Document, at: Path) => void): string {
  const document = parseDocument(text, OPTIONS);
  if (!isMap(document.contents)) document.contents = document.createNode({}) as never;
  const at = spelled(document, path);
  const before = topPair(document, at);
  const [from, to] = before ? rangeOf(before) : [text.length, text.length];
  edit(document, at);
  const whole = document.toString(PRINTED);
  const gap = before || text === "" || text.endsWith("\n") ? "" : "\n";
  const style = { ...PRINTED, indentSeq: !/\n-/.test(text.slice(from, to)) };
  const lines = printed(topPair(document, at), style);
  const part = text.slice(0, from) + gap + lines + text.slice(to);
  return isSame(part, whole) ? part : whole;
}

/** The path with the keys as they are spelled in the text. */
function spelled(document: Document, path: Path): Path {
  let node: unknown = document.contents;
  return path.map((part) => {
    if (isSeq(node)) node = node.items[Number(part)];
    else if (isMap(node)) {
      const pair = node.items.find(({ key }) => String(key) === part) ??
        node.items.find(({ key }) => snake(String(key)) === part);
      node = pair?.value;
      if (pair) return String(pair.key);
    }
    return part;
  });
}

function topPair(document: Document, [top]: Path): Pair | undefined {
  return (document.contents as unknown as YAMLMap).items.find(({ key }) => String(key) === top);
}

interface Ranged {
  range?: [number, number, number];
}

function rangeOf({ key, value }: Pair): [number, number] {
  const start = (key as Ranged).range?.[0] ?? 0;
  const end = (value as Ranged | null)?.range?.[2] ?? (key as Ranged).range?.[2] ?? start;
  return [start, end];
}

/** The lines of one pair; what stands before its key is no part of them. */
function printed(pair: Pair | undefined, style: ToStringOptions): string {
  if (pair === undefined) return "";
  const alone = new Document({}, OPTIONS);
  const key = alone.createNode(String(pair.key));
  (alone.contents as unknown as YAMLMap).items = [Object.assign(pair, { key })] as never;
  return alone.toString(style);
}

function isSame(one: string, other: string): boolean {
  const [a, b] = [parse(one), parse(other)];
  return "value" in a && JSON.stringify(a) === JSON.stringify(b);
}

/** The node with this value: what is in it already stays, with its comments. */
function merged(document: Document, node: unknown, value: unknown): unknown {
  if (isMap(node) && isValues(value)) {
    if (node.items.length === 0) node.flow = false;
    for (const { key } of [...node.items]) if (!(String(key) in value)) node.delete(key);
    for (const [key, inner] of Object.entries(value)) {
      node.set(key, merged(document, node.get(key, true), inner));
    }
    return node;
  }
  if (isSeq(node) && Array.isArray(value)) {
    const items = value as unknown[];
    if (node.items.length === 0) node.flow = false;
    node.items = items.some(isValues)
      ? items.map((item, index) => merged(document, node.items[index], item))
      : items.map((item) => node.items.find((old) => isScalar(old) && old.value === item) ??
          document.createNode(item));
    return node;
  }
  if (!isScalar(node) || isValues(value) || Array.isArray(value)) return document.createNode(value);
  node.value = value;
  return node;
}
