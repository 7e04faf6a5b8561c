// The settings in force, each with where it comes from.
import { useEffect, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Configuration } from "../api/types.ts";
import { counted } from "../parts/format.ts";
import { tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";

type Setting = Configuration["settings"][number];

const COLUMNS: Column<Setting>[] = [
  { key: "setting", title: "Setting",
    cell: ({ key, description }) => <code title={description}>{key}</code> },
  { key: "value", title: "Value",
    cell: ({ value }) => <code title={JSON.stringify(value)}>{JSON.stringify(value)}</code> },
  { key: "source", title: "From",
    cell: ({ source }) =>
      <span class={source === "default" ? "quiet" : ""} title={source}>
        {source.slice(source.lastIndexOf("/") + 1)}
      </span> },
  { key: "about", title: "What it is", mid: true,
    cell: ({ description }) => <span title={description}>{description}</span> },
];

export function ConfigurationView() {
  const [reply, setReply] = useState<Configuration>();
  const [isWhole, setWhole] = useState(false);
  useEffect(() => void get<Configuration>("api/configuration").then(setReply, tellError), []);
  if (reply === undefined) return null;
  const given = reply.settings.filter(({ source }) => source !== "default");
  return (
    <section aria-labelledby="configuration">
      <div class="heading">
        <h2 id="configuration">Configuration</h2>
        <select
          aria-label="Settings"
          value={isWhole ? "all" : "given"}
          onChange={(event) => setWhole(event.currentTarget.value === "all")}
        >
          <option value="given">Those that are given</option>
          <option value="all">All of them</option>
        </select>
        <span class="quiet">
          {counted(given.length, "setting")} of {reply.settings.length} given, as magid has read
          them at its start{reply.path && `; the file is ${reply.path}`}
        </span>
      </div>
      {given.length === 0 && !isWhole ? (
        <p class="quiet">All have their defaults.</p>
      ) : (
        <Table label="Configuration" columns={COLUMNS} rows={isWhole ? reply.settings : given}
          keyOf={({ key }) => key} />
      )}
    </section>
  );
}
