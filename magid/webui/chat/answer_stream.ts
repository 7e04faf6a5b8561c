// Reads a streamed answer of /v1/chat/completions. Pure but for the reading.

export interface Delta {
  text: string;
  reasoning: string;
}

export interface Timings {
  tokens: number;
  perSecond: number;
}

export interface Part extends Partial<Delta> {
  timings?: Timings;
  error?: string;
}

interface Chunk {
  choices?: { delta?: { content?: string | null; reasoning_content?: string | null } }[];
  timings?: { predicted_n: number; predicted_per_second: number };
  error?: { message: string } | string;
}

/** What the data of one event says; undefined for the end and what is not understood. */
export function partOf(data: string): Part | undefined {
  if (data === "[DONE]") return undefined;
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data) as Chunk;
  } catch {
    return undefined;
  }
  if (chunk.error) {
    return { error: typeof chunk.error === "string" ? chunk.error : chunk.error.message };
  }
  const delta = chunk.choices?.[0]?.delta;
  const part: Part = { text: delta?.content ?? "", reasoning: delta?.reasoning_content ?? "" };
  const { timings } = chunk;
  if (timings) {
    part.timings = { tokens: timings.predicted_n, perSecond: timings.predicted_per_second };
  }
  return part;
}

/** Splits a text of server-sent events into the data of those that are whole, and the rest. */
export function split(text: string): { data: string[]; rest: string } {
  const events = text.split(/\r?\n\r?\n/);
  const rest = events.pop() ?? "";
  const data = events.map((event) =>
    event
      .split(/\r?\n/)
      .filter((line) => line.startsWith("data:"))
      .map((line) => line.slice(5).replace(/^ /, ""))
      .join("\n"),
  );
  return { data: data.filter((one) => one !== ""), rest };
}

/** Calls `take` with each part as it comes. Raises what reading raises. */
export async function read(body: ReadableStream<Uint8Array>, take: (part: Part) => void) {
  const decoder = new TextDecoder();
  const reader = body.getReader();
  let left = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const { data, rest } = split(left + decoder.decode(value, { stream: true }));
    left = rest;
    for (const one of data) {
      const part = partOf(one);
      if (part) take(part);
    }
  }
}
