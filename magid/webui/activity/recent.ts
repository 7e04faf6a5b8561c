// The list of requests, of which magid is asked only for what is new.
import { computed } from "@preact/signals";
import { useEffect, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { GatewayRequest, Requests } from "../api/types.ts";
import { tellError } from "../parts/notices.tsx";
import { live } from "../stream/client.ts";
import { KEPT, merged, overOf, wanted } from "./newest.ts";

const LEAST_MS = 500; // between two questions, however many requests come

const counts = computed(() => live.value?.requests);

/** Asks when the stream says that requests have come or ended; one question at a time. */
class RequestFeed {
  #known: GatewayRequest[] = [];
  #overThen: number | undefined; // how many requests were over at the last question
  #isDue = false;
  #isAsking = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  readonly #abort = new AbortController();
  readonly #unsubscribe: () => void;

  constructor(readonly take: (requests: GatewayRequest[]) => void) {
    this.#unsubscribe = counts.subscribe(() => this.#due());
  }

  close(): void {
    this.#unsubscribe();
    this.#abort.abort();
    clearTimeout(this.#timer);
  }

  #due(): void {
    this.#isDue = true;
    if (!this.#isAsking && this.#timer === undefined) void this.#ask();
  }

  async #ask(): Promise<void> {
    this.#isDue = false;
    this.#isAsking = true;
    const now = counts.peek();
    const limit = wanted(now, this.#overThen);
    try {
      const fresh = merged(this.#known, await this.#newest(limit), limit);
      this.#known = fresh ?? (await this.#newest(KEPT));
      this.#overThen = now && overOf(now);
      this.take(this.#known);
    } catch (error) {
      if (!this.#abort.signal.aborted) tellError(error);
    }
    this.#isAsking = false;
    if (!this.#abort.signal.aborted) this.#timer = setTimeout(() => this.#rested(), LEAST_MS);
  }

  #rested(): void {
    this.#timer = undefined;
    if (this.#isDue) void this.#ask();
  }

  async #newest(limit: number): Promise<GatewayRequest[]> {
    return (await get<Requests>(`api/requests?limit=${limit}`, this.#abort.signal)).requests;
  }
}

/** The list; undefined until the first answer. */
export function useRequests(): GatewayRequest[] | undefined {
  const [requests, setRequests] = useState<GatewayRequest[]>();
  useEffect(() => {
    const feed = new RequestFeed(setRequests);
    return () => feed.close();
  }, []);
  return requests;
}
