// The gateway's requests: those under way, the last ones, and those that routing refused.
import { useState } from "preact/hooks";

import type { GatewayRequest } from "../api/types.ts";
import { Empty } from "../parts/empty.tsx";
import { counted } from "../parts/format.ts";
import { to } from "../shell/route.ts";
import { CaptureButton } from "./capture.tsx";
import { useRequests } from "./recent.ts";
import { chosen, outcomesOf, toCsv, type RequestFilter } from "./requests.ts";
import { RequestTable } from "./table.tsx";

export default function Activity() {
  const requests = useRequests();
  const [filter, setFilter] = useState<RequestFilter>({ text: "", outcome: "" });
  if (requests === undefined) return <h1>Activity</h1>;
  const shown = chosen(requests, filter);
  return (
    <>
      <div class="heading">
        <h1>Activity</h1>
        <CaptureButton />
      </div>
      {requests.length === 0 ? (
        <Empty title="No requests since magid started">
          <p>
            Ask a model in <a href={to("chat")}>Chat</a>, or point a program at this server.
          </p>
        </Empty>
      ) : (
        <>
          <Filters filter={filter} onChange={setFilter} requests={requests} shown={shown} />
          <RequestTable requests={shown} />
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
        {outcomesOf(requests).map((outcome) => (
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
