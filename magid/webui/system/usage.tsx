// Requests and tokens of the last days, by model, token or day.
import { useEffect, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Usage } from "../api/types.ts";
import { count } from "../parts/format.ts";
import { Table, type Column } from "../parts/table.tsx";

type Row = Usage["rows"][number];
type By = "model" | "token" | "day";

const TITLES: Record<By, string> = { model: "Model", token: "Caller", day: "Day" };
const DAYS = [1, 7, 30, 90];

const columns = (by: By): Column<Row>[] => [
  { key: "name", title: TITLES[by], cell: (row) => row[by] || "without a token" },
  { key: "requests", title: "Requests", isNumber: true, cell: (row) => count(row.requests) },
  { key: "prompt", title: "Prompt tokens", isNumber: true, low: true,
    cell: (row) => count(row.promptTokens) },
  { key: "cached", title: "Cached", isNumber: true, low: true,
    cell: (row) => count(row.cachedTokens) },
  { key: "answer", title: "Answer tokens", isNumber: true,
    cell: (row) => count(row.answerTokens) },
];

export function UsageView() {
  const [by, setBy] = useState<By>("model");
  const [days, setDays] = useState(7);
  const [usage, setUsage] = useState<Usage>();
  const [problem, setProblem] = useState("");
  useEffect(() => {
    get<Usage>(`api/usage?by=${by}&days=${days}`).then(setUsage, (error: Error) =>
      setProblem(error.message),
    );
  }, [by, days]);
  return (
    <section aria-labelledby="usage">
      <div class="heading">
        <h2 id="usage">Usage</h2>
        <select
          aria-label="Sum by"
          value={by}
          onChange={(event) => setBy(event.currentTarget.value as By)}
        >
          {(Object.keys(TITLES) as By[]).map((one) => (
            <option key={one} value={one}>
              By {TITLES[one].toLowerCase()}
            </option>
          ))}
        </select>
        <select
          aria-label="Days"
          value={days}
          onChange={(event) => setDays(Number(event.currentTarget.value))}
        >
          {DAYS.map((one) => (
            <option key={one} value={one}>
              {one === 1 ? "Today" : `Last ${one} days`}
            </option>
          ))}
        </select>
      </div>
      {problem && <p class="problem">{problem}</p>}
      {usage?.rows.length === 0 && <p class="quiet">No requests in these days.</p>}
      {usage && usage.rows.length > 0 && (
        <Table
          label="Usage"
          columns={columns(by)}
          rows={usage.rows}
          keyOf={(row) => row[by] ?? ""}
        />
      )}
    </section>
  );
}
