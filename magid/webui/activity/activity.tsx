// The gateway's requests: those under way and the last ones. Texts are never kept.
import { useEffect, useState } from "preact/hooks";

import { get, mayChange, remove } from "../api/request.ts";
import type { GatewayRequest, Requests } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { Empty } from "../parts/empty.tsx";
import { count, counted, moment, rate, span } from "../parts/format.ts";
import { Icon, type IconName } from "../parts/icons.tsx";
import { act, tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { live } from "../stream/client.ts";
import { chosen, isRunning, toCsv, type RequestFilter } from "./requests.ts";

const KEPT = 1000;

/** The list, asked for when the stream says that requests have come or ended. */
function useRequests(): GatewayRequest[] | undefined {
  const [requests, setRequests] = useState<GatewayRequest[]>();
  const counts = JSON.stringify(live.value?.requests);
  useEffect(() => {
    const abort = new AbortController();
    get<Requests>(`api/requests?limit=${KEPT}`, abort.signal).then(
      (answer) => setRequests(answer.requests),
      (error: unknown) => abort.signal.aborted || tellError(error),
    );
    return () => abort.abort();
  }, [counts]);
  return requests;
}

async function cancel(request: GatewayRequest): Promise<void> {
  const text = `The client of ${request.path} gets an error. The model goes on.`;
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
      {running ? "running" : request.outcome}
      {request.status !== null && request.status >= 400 && ` ${request.status}`}
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
        model
      ),
  },
  { key: "asked", title: "Asked for", mid: true, cell: ({ model }) => model },
  { key: "outcome", title: "Outcome", cell: (request) => <Outcome request={request} /> },
  { key: "route", title: "Route and why", low: true,
    cell: ({ route, error }) => <span title={error ?? route}>{error ?? route}</span> },
  { key: "path", title: "Endpoint", mid: true, cell: ({ path }) => path },
  { key: "token", title: "Caller", mid: true, cell: ({ token }) => token ?? "–" },
  { key: "prompt", title: "Prompt", isNumber: true, low: true,
    cell: ({ promptTokens }) => count(promptTokens) },
  { key: "answer", title: "Answer", isNumber: true, low: true,
    cell: ({ answerTokens }) => count(answerTokens) },
  { key: "first", title: "First token", isNumber: true, mid: true,
    cell: ({ firstTokenSeconds }) => span(firstTokenSeconds) },
  { key: "speed", title: "Tokens/s", isNumber: true, low: true,
    cell: ({ tokensPerSecond }) => rate(tokensPerSecond) },
  { key: "took", title: "Took", isNumber: true, low: true,
    cell: ({ durationSeconds }) => span(durationSeconds) },
  {
    key: "verbs",
    title: "Actions",
    isTitleHidden: true,
    cell: (request) =>
      isRunning(request) &&
      mayChange() && (
        <button aria-label={`Cancel ${request.id}`} onClick={() => void cancel(request)}>
          Cancel
        </button>
      ),
  },
];

export default function Activity() {
  const requests = useRequests();
  const [filter, setFilter] = useState<RequestFilter>({ text: "", outcome: "" });
  if (requests === undefined) return <h1>Activity</h1>;
  const shown = chosen(requests, filter);
  return (
    <>
      <h1>Activity</h1>
      {requests.length === 0 ? (
        <Empty title="No requests since magid started">
          <p>
            Ask a model in <a href={to("chat")}>Chat</a>, or point a program at this server.
          </p>
        </Empty>
      ) : (
        <>
          <Filters filter={filter} onChange={setFilter} requests={requests} shown={shown} />
          <Table label="Requests" columns={COLUMNS} rows={shown} keyOf={({ id }) => id} />
        </>
      )}
    </>
  );
}

interface FiltersProps {
  filter: RequestFilter;
  requests: GatewayRequest[];
  shown: GatewayRequest[];
  onChange: (filter: RequestFilter) => void;
}

function Filters({ filter, requests, shown, onChange }: FiltersProps) {
  const outcomes = [...new Set(requests.map(({ outcome }) => outcome))].sort();
  return (
    <div class="filters" role="search" aria-label="Requests">
      <input
        type="search"
        placeholder="Search"
        aria-label="Search requests"
        value={filter.text}
        onInput={(event) => onChange({ ...filter, text: event.currentTarget.value })}
      />
      <select
        aria-label="Outcome"
        value={filter.outcome}
        onChange={(event) => onChange({ ...filter, outcome: event.currentTarget.value })}
      >
        <option value="">All outcomes</option>
        {outcomes.map((outcome) => (
          <option key={outcome}>{outcome}</option>
        ))}
      </select>
      <span class="quiet" role="status">
        {counted(shown.length, "request")}
      </span>
      <span class="grow" />
      <button onClick={() => save(shown, "csv")}>Export CSV</button>
      <button onClick={() => save(shown, "json")}>Export JSON</button>
    </div>
  );
}

function save(requests: GatewayRequest[], kind: "csv" | "json"): void {
  const text = kind === "csv" ? toCsv(requests) : JSON.stringify(requests, null, 2);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/octet-stream" }));
  link.download = `magid-requests.${kind}`;
  link.click();
  URL.revokeObjectURL(link.href);
}
