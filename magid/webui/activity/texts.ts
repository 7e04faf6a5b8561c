// What a request asks and an answer says, of each API that magid speaks, for a person. Pure.
import { split } from "../chat/answer_stream.ts";

type Json = Record<string, unknown>;

/** Messages with who says them; a text that is not understood stays as it is. */
export const asked = (text: string): string => understood(messagesIn, text);

/** The text of an answer, or of the events of a stream; reasoning stands before it. */
export const answered = (text: string): string => understood(textOf, text);

/** Both texts are by others: one that is nested too deeply stays as it is, and breaks no view. */
function understood(read: (text: string) => string, text: string): string {
  try {
    return read(text) || text;
  } catch {
    return text;
  }
}

function messagesIn(text: string): string {
  const body = parsed(text);
  if (body === undefined) return text;
  const messages = [body.messages, body.input].find(Array.isArray) as unknown[] | undefined;
  const single = [body.prompt, body.input, body.content].find((one) => typeof one === "string");
  const system = said(body.system ?? body.instructions);
  const lines = (messages ?? []).map(
    (message) => `${roleOf(message)}: ${said(message) || JSON.stringify(message)}`,
  );
  if (single !== undefined && messages === undefined) lines.push(String(single));
  if (system) lines.unshift(`system: ${system}`);
  return lines.join("\n\n");
}

function textOf(text: string): string {
  const whole = parsed(text);
  const events = whole ? [whole] : split(`${text}\n\n`).data.map(parsed);
  const parts = events.filter((event) => event !== undefined);
  const thought = parts.map((part) => reasoningIn(choiceOf(part))).join("");
  const answer = parts.map((part) => said(choiceOf(part))).join("");
  return [thought && `(${thought})`, answer].filter(Boolean).join("\n\n");
}

function parsed(text: string): Json | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === "object" && value !== null ? (value as Json) : undefined;
  } catch {
    return undefined; // cut off, or no JSON
  }
}

function roleOf(message: unknown): string {
  const { role } = (message ?? {}) as Json;
  return typeof role === "string" ? role : "–";
}

/** What an answer or an event carries: OpenAI's choice, Anthropic's delta, or itself. */
function choiceOf(part: Json): unknown {
  const choice = (part.choices as Json[] | undefined)?.[0];
  return choice?.delta ?? choice?.message ?? choice ?? part.delta ?? part.output ?? part;
}

function reasoningIn(part: unknown): string {
  const { reasoning_content: openai, thinking } = (part ?? {}) as Json;
  return [openai, thinking].find((one) => typeof one === "string") ?? "";
}

/** The text in a message, a part of one, or a list of them. */
function said(value: unknown): string {
  if (typeof value === "string") return value;
  if (Array.isArray(value)) return value.map(said).filter(Boolean).join("\n");
  const { content, text } = (value ?? {}) as Json;
  return said(content ?? text ?? "");
}
