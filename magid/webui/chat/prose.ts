// A model's answer as blocks: paragraphs, lists, headings, code. Pure; what is not known is text.

export type Inline = { kind: "text" | "code" | "strong"; text: string };

export type Block =
  | { kind: "paragraph"; parts: Inline[] }
  | { kind: "heading"; parts: Inline[] }
  | { kind: "list"; items: Inline[][] }
  | { kind: "code"; language: string; text: string };

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([\w+-]*)/;
const ITEM = /^\s*(?:[-*+]|\d{1,3}[.)])\s+(.*)$/;

/** A fence without an end, as in an answer under way, reaches to the end. */
export function blocks(text: string): Block[] {
  const found: Block[] = [];
  const lines = text.split("\n");
  for (let at = 0; at < lines.length; ) {
    const line = lines[at] ?? "";
    const fence = FENCE.exec(line);
    if (fence) {
      const mark = fence[1] ?? "```";
      const end = lines.findIndex((one, i) => i > at && one.trim().startsWith(mark));
      const last = end < 0 ? lines.length : end;
      const code = lines.slice(at + 1, last).join("\n");
      found.push({ kind: "code", language: fence[2] ?? "", text: code });
      at = last + 1;
    } else if (line.trim() === "") {
      at += 1;
    } else {
      const end = lines.findIndex((one, i) => i > at && !continues(line, one));
      const last = end < 0 ? lines.length : end;
      found.push(block(lines.slice(at, last)));
      at = last;
    }
  }
  return found;
}

function continues(first: string, line: string): boolean {
  if (line.trim() === "" || FENCE.test(line) || first.startsWith("#") || line.startsWith("#")) {
    return false;
  }
  return ITEM.test(first) || !ITEM.test(line);
}

function block(lines: string[]): Block {
  const [first = ""] = lines;
  const heading = /^#{1,6}\s+(.*)$/.exec(first);
  if (heading) return { kind: "heading", parts: inline(heading[1] ?? "") };
  if (!ITEM.test(first)) return { kind: "paragraph", parts: inline(lines.join("\n")) };
  const items: string[] = [];
  for (const line of lines) {
    const item = ITEM.exec(line);
    if (item) items.push(item[1] ?? "");
    else items.push(`${items.pop() ?? ""}\n${line.trim()}`);
  }
  return { kind: "list", items: items.map(inline) };
}

export function inline(text: string): Inline[] {
  const parts: Inline[] = [];
  let last = 0;
  for (const match of text.matchAll(/`([^`]+)`|\*\*([^*]+)\*\*/g)) {
    if (match.index > last) parts.push({ kind: "text", text: text.slice(last, match.index) });
    if (match[1] !== undefined) parts.push({ kind: "code", text: match[1] });
    else parts.push({ kind: "strong", text: match[2] ?? "" });
    last = match.index + match[0].length;
  }
  if (last < text.length) parts.push({ kind: "text", text: text.slice(last) });
  return parts;
}
