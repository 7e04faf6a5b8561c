// All that is known of one request, in a dialog.
import { signal } from "@preact/signals";
import { useEffect } from "preact/hooks";

import type { GatewayRequest } from "../api/types.ts";
import { Dialog } from "../parts/dialog.tsx";
import { count, moment, rate, span } from "../parts/format.ts";
import { CapturedTexts } from "./capture.tsx";
import { outcomeOf } from "./requests.ts";

const shown = signal<GatewayRequest | undefined>(undefined);

export function DetailsButton({ request }: { request: GatewayRequest }) {
  return (
    <button
      aria-label={`Details of ${request.id}`}
      onClick={() => (shown.value = request)}
    >
      Details
    </button>
  );
}

export function Details() {
  const request = shown.value;
  useEffect(() => () => void (shown.value = undefined), []);
  if (request === undefined) return null;
  return (
    <Dialog of={request} heading="details" isWide onClose={() => (shown.value = undefined)}>
      {(close) => (
        <>
          <h2 id="details">Request {request.id}</h2>
          {request.error && <p class="problem">{request.error}</p>}
          <Facts request={request} />
          <CapturedTexts id={request.id} />
          <div class="buttons">
            <button onClick={close}>Close</button>
          </div>
        </>
      )}
    </Dialog>
  );
}

function Facts({ request }: { request: GatewayRequest }) {
  const facts: [string, string | null][] = [
    ["Outcome", outcomeOf(request)],
    ["Time", moment(request.at)],
    ["Caller", request.token],
    ["Id of its client", request.clientRequestId],
    ["Endpoint", request.path],
    ["Asked for", request.model],
    ["Variant", request.variant],
    ["Model", request.modelId],
    ["Port", request.port === null ? null : String(request.port)],
    ["Route", request.route],
    ["Attempts", count(request.attempts)],
    ["Waited", span(request.waitedSeconds)],
    ["First token", span(request.firstTokenSeconds)],
    ["Took", span(request.durationSeconds)],
    ["Prompt", tokens(request.promptTokens, request.cachedTokens)],
    ["Answer", tokens(request.answerTokens)],
    ["Tokens a second", rate(request.tokensPerSecond)],
  ];
  return (
    <dl class="facts">
      {facts.map(
        ([name, value]) =>
          value && (
            <div key={name}>
              <dt>{name}</dt>
              <dd>{value}</dd>
            </div>
          ),
      )}
    </dl>
  );
}

function tokens(value: number | null, cached: number | null = null): string {
  const more = cached ? `, ${count(cached)} of them cached` : "";
  return value === null ? "–" : `${count(value)} tokens${more}`;
}
