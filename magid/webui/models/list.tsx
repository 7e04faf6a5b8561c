// All models, to search, sort, filter and act on.
import { signal } from "@preact/signals";
import { useMemo, useRef } from "preact/hooks";

import { mayChange, post } from "../api/request.ts";
import { Empty } from "../parts/empty.tsx";
import { bytes, count, duration } from "../parts/format.ts";
import { NoModels } from "../parts/no_models.tsx";
import { act } from "../parts/notices.tsx";
import { StateBadge } from "../parts/state.tsx";
import { Table, type Column, type Sorting } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { store, stored } from "../shell/stored.ts";
import { live } from "../stream/client.ts";
import type { Live } from "../stream/state.ts";
import {
  EnabledSwitch,
  PinButton,
  shownState,
  ThinkingSwitch,
  TierChoice,
  Verbs,
} from "./controls.tsx";
import { filter, Filters } from "./filters.tsx";
import { pins } from "./pins.ts";
import { filtered, rowsOf, sorted, type Row } from "./rows.ts";

const sorting = signal<Sorting>(stored("sorting", { key: "name", isDescending: false }));

function sortBy(key: string): void {
  const old = sorting.peek();
  sorting.value = { key, isDescending: old.key === key && !old.isDescending };
  store("sorting", sorting.value);
}

const FIT_WORDS = { yes: "yes", tight: "tightly", part: "in part", no: "no", unknown: "–" };

const COLUMNS: Column<Row>[] = [
  {
    key: "pin",
    title: "Pin",
    isTitleHidden: true,
    cell: ({ model }) => <PinButton model={model} />,
  },
  {
    key: "name",
    title: "Model",
    canSort: true,
    cell: ({ model }) => (
      <a class="name" href={to("models", model.modelId)} title={model.modelId}>
        {model.displayName}
      </a>
    ),
  },
  {
    key: "state",
    title: "State",
    canSort: true,
    cell: (row) => <StateBadge state={shownState(row)} why={row.why} />,
  },
  { key: "tier", title: "Tier", canSort: true, low: true,
    cell: ({ model }) => <TierChoice model={model} /> },
  { key: "enabled", title: "Enabled", low: true,
    cell: ({ model }) => <EnabledSwitch model={model} /> },
  { key: "thinking", title: "Thinks", mid: true,
    cell: ({ model }) => <ThinkingSwitch model={model} /> },
  { key: "place", title: "Runs on", canSort: true, low: true, cell: ({ place }) => place },
  { key: "size", title: "File", canSort: true, isNumber: true, mid: true,
    cell: ({ model }) => bytes(model.sizeBytes) },
  { key: "fits", title: "Fits", canSort: true, low: true,
    cell: ({ model }) => <span title={model.memory.why}>{FIT_WORDS[model.memory.fits]}</span> },
  { key: "memory", title: "Memory", canSort: true, isNumber: true, low: true,
    cell: ({ memory }) => bytes(memory) },
  { key: "context", title: "Context", canSort: true, isNumber: true, low: true,
    cell: ({ model }) => count(model.ctxSize ?? model.contextLength) },
  { key: "uptime", title: "Up for", canSort: true, isNumber: true, low: true,
    cell: ({ uptime }) => duration(uptime) },
  {
    key: "verbs",
    title: "Actions",
    isTitleHidden: true,
    isNumber: true,
    cell: (row) => <Verbs row={row} />,
  },
];

export function ModelList() {
  const now = live.value;
  if (now === undefined) return <h1>Models</h1>;
  const isEmpty = Object.keys(now.registry.models).length === 0;
  return (
    <>
      <div class="heading">
        <h1>Models</h1>
        {mayChange() && (
          <button onClick={() => void act(() => post("api/models/rescan"))}>Read folders</button>
        )}
      </div>
      {isEmpty ? <NoModels live={now} /> : <Rows live={now} />}
      <Unusable live={now} />
    </>
  );
}

function Rows({ live }: { live: Live }) {
  const { registry, servers } = live;
  const last = useRef<Row[]>([]);
  const pinned = pins.value;
  const all = useMemo(() => rowsOf(live, pinned, last.current), [registry, servers, pinned]);
  const inOrder = useMemo(() => sorted(all, sorting.value), [all, sorting.value]);
  last.current = inOrder;
  const shown = useMemo(() => filtered(inOrder, filter.value), [inOrder, filter.value]);
  return (
    <>
      <Filters rows={all} shown={shown.length} />
      {shown.length === 0 ? (
        <Empty title="No model matches the search and the filters" />
      ) : (
        <Table
          label="Models"
          columns={COLUMNS}
          rows={shown}
          keyOf={({ id }) => id}
          sorting={sorting.value}
          onSort={sortBy}
        />
      )}
    </>
  );
}

/** Files that magid has found and cannot run, each with the reason. */
function Unusable({ live }: { live: Live }) {
  const { modelsBroken } = live.registry;
  if (modelsBroken.length === 0) return null;
  return (
    <section aria-labelledby="broken">
      <h2 id="broken">Files that cannot be used</h2>
      <ul class="plain">
        {modelsBroken.map(({ path, reason }) => (
          <li key={path}>
            <code>{path}</code> <span class="quiet">{reason}</span>
          </li>
        ))}
      </ul>
    </section>
  );
}
