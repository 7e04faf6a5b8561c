// Asks magid. Addresses are relative to the page's, so that it works below any path.
import { signal } from "@preact/signals";

import type { ErrorReply, Session } from "./types.ts";

/** What magid has refused, or that it cannot be reached: `status` is 0 then. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly details: Record<string, unknown> = {},
  ) {
    super(message);
  }
}

/** Who this browser is to magid; undefined until magid has said so. */
export const session = signal<Session | undefined>(undefined);

const has = (scope: Session["scopes"][number]): boolean => {
  const scopes = session.value?.scopes ?? [];
  return scopes.includes(scope) || scopes.includes("admin");
};

/** Whether the caller may change things: others get a page without buttons. */
export const mayChange = (): boolean => has("admin");
export const mayRead = (): boolean => has("read");
export const mayAsk = (): boolean => has("infer");
export const isSignedOut = (): boolean => session.value?.access === "none";

type Method = "GET" | "POST" | "PUT" | "DELETE";

export interface Options {
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** The answer as it came. Raises ApiError. */
export async function ask(method: Method, path: string, options: Options = {}): Promise<Response> {
  const headers: Record<string, string> = { ...options.headers };
  if (method !== "GET") headers["X-Magi-Page"] = "1"; // no page of another site can send it
  const init: RequestInit = { method, headers, cache: "no-store" };
  if (options.signal) init.signal = options.signal;
  if (options.body !== undefined) {
    headers["Content-Type"] = "application/json";
    init.body = JSON.stringify(options.body);
  }
  let answer: Response;
  try {
    answer = await fetch(new URL(path, document.baseURI), init);
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError(0, "Unreachable", "cannot reach magid: the connection failed");
  }
  if (answer.ok) return answer;
  const refused = await refusal(answer);
  if (answer.status === 401 && path !== "api/session") await loadSession();
  throw refused;
}

async function refusal(answer: Response): Promise<ApiError> {
  const text = await answer.text();
  try {
    const reply = JSON.parse(text) as Partial<ErrorReply> & { error: unknown };
    const gateway = reply.error as { message?: string; code?: string }; // OpenAI's shape
    const message = reply.message ?? gateway.message;
    const code = typeof reply.error === "string" ? reply.error : (gateway.code ?? "");
    if (message) return new ApiError(answer.status, code, message, reply.details);
  } catch {
    // a proxy has answered
  }
  return new ApiError(answer.status, "", `cannot do this: HTTP status ${answer.status}`);
}

async function json<T>(answer: Promise<Response>): Promise<T> {
  return (await (await answer).json()) as T;
}

export const get = <T>(path: string, signal?: AbortSignal): Promise<T> =>
  json<T>(ask("GET", path, signal ? { signal } : {}));
export const post = <T>(path: string, body?: unknown): Promise<T> =>
  json<T>(ask("POST", path, { body }));
export const put = <T>(path: string, body: unknown): Promise<T> =>
  json<T>(ask("PUT", path, { body }));
export const remove = <T>(path: string): Promise<T> => json<T>(ask("DELETE", path));

/** Asks who this browser is. Without an answer it stays what it was. */
export async function loadSession(): Promise<void> {
  session.value = await get<Session>("api/session");
}

/** Trades a token, or the secret of a link of `magictl open`, for a session. Raises ApiError. */
export async function signIn(given: { token: string } | { link: string }): Promise<void> {
  session.value = await post<Session>("api/session", given);
}

export async function signOut(): Promise<void> {
  session.value = await remove<Session>("api/session");
}
