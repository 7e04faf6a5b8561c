// The table of requests.
import { mayChange, remove } from "../api/request.ts";
import type { GatewayRequest } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { count, moment, rate, span } from "../parts/format.ts";
import { Icon, type IconName } from "../parts/icons.tsx";
import { act } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { Details, DetailsButton } from "./details.tsx";
import { isRunning, outcomeOf } from "./requests.ts";

async function cancel(request: GatewayRequest): Promise<void> {
  const text = `The client of ${request.path} gets an error, and the model stops writing.`;
  if (!(await confirmed("Cancel this request?", text, "Cancel the request"))) return;
  await act(() => remove<{ message: string }>(`api/requests/${encodeURIComponent(request.id)}`));
}

const OUTCOMES: Record<string, { icon: IconName; tone: string }> = {
  ok: { icon: "ready", tone: "good" },
  cancelled: { icon: "stopped", tone: "quiet" },
};

function Outcome({ request }: { request: GatewayRequest }) {
  const running = isRunning(request);
  const known = OUTCOMES[request.outcome] ?? { icon: "failed" as const, tone: "bad" };
  const { icon, tone } = running ? { icon: "busy" as const, tone: "busy" } : known;
  return (
    <span class={`state ${tone}`} title={request.error ?? undefined}>
      <Icon name={icon} spins={running} />
      <span>{outcomeOf(request)}</span>
    </span>
  );
}

const COLUMNS: Column<GatewayRequest>[] = [
  { key: "at", title: "Time", cell: ({ at }) => moment(at) },
  {
    key: "model",
    title: "Model",
    cell: ({ model, modelId }) =>
      modelId ? (
        <a class="name" href={to("models", modelId)}>
          {modelId}
        </a>
      ) : (
        model || "–"
      ),
  },
  { key: "asked", title: "Asked for", mid: true, cell: ({ model }) => model },
  { key: "outcome", title: "Outcome", cell: (request) => <Outcome request={request} /> },
  { key: "route", title: "Route and why", low: true,
    cell: ({ route, error }) => <span title={error ?? route}>{error ?? route}</span> },
  { key: "path", title: "Endpoint", mid: true, cell: ({ path }) => path },
  { key: "token", title: "Caller", mid: true, cell: ({ token }) => token ?? "–" },
  { key: "prompt", title: "Prompt", isNumber: true, mid: true,
    cell: ({ promptTokens }) => count(promptTokens) },
  { key: "answer", title: "Answer", isNumber: true, low: true,
    cell: ({ answerTokens }) => count(answerTokens) },
  { key: "first", title: "First token", isNumber: true, mid: true,
    cell: ({ firstTokenSeconds }) => span(firstTokenSeconds) },
  { key: "speed", title: "Tokens/s", isNumber: true, mid: true,
    cell: ({ tokensPerSecond }) => rate(tokensPerSecond) },
  { key: "took", title: "Took", isNumber: true, low: true,
    cell: ({ durationSeconds }) => span(durationSeconds) },
  {
    key: "verbs",
    title: "Actions",
    isTitleHidden: true,
    cell: (request) =>
      isRunning(request) && mayChange() ? (
        <button aria-label={`Cancel ${request.id}`} onClick={() => void cancel(request)}>
          Cancel
        </button>
      ) : (
        <DetailsButton request={request} />
      ),
  },
];

export function RequestTable({ requests }: { requests: GatewayRequest[] }) {
  return (
    <>
      <Table label="Requests" columns={COLUMNS} rows={requests} keyOf={({ id }) => id} />
      <Details />
    </>
  );
}
