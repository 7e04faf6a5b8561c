// Engines: llama-servers side by side. Adding one and changing to it is root's, on the server.
import { Fragment } from "preact";
import { useEffect, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Engines } from "../api/types.ts";
import { Command } from "../parts/copy.tsx";
import { moment } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { live } from "../stream/client.ts";

type Engine = Engines["engines"][number];

const COLUMNS: Column<Engine>[] = [
  { key: "name", title: "Engine", cell: ({ name }) => <span class="name">{name}</span> },
  { key: "used", title: "Used", cell: ({ used }) =>
    used && (
      <span class="state good">
        <Icon name="ready" />
        yes
      </span>
    ) },
  { key: "models", title: "Models", low: true, cell: (engine) => <UsedBy engine={engine} /> },
  { key: "version", title: "Version", cell: ({ version }) => version },
  { key: "gpus", title: "GPUs it found", low: true,
    cell: ({ gpus }) => gpus.join(", ") || "none" },
  { key: "source", title: "Made of", mid: true,
    cell: ({ source, sha256 }) => <span title={sha256 ?? source}>{source}</span> },
  { key: "added", title: "Added", low: true, cell: ({ addedAt }) => moment(addedAt) },
];

/** Models with an engine of their own have it by name; all others have the one that is used. */
function UsedBy({ engine: { models, used } }: { engine: Engine }) {
  const known = live.value?.registry.models ?? {};
  return (
    <>
      {models.map((id, index) => (
        <Fragment key={id}>
          {index > 0 && ", "}
          <a class="name" href={to("models", id)}>
            {known[id]?.displayName ?? id}
          </a>
        </Fragment>
      ))}
      {used ? (models.length > 0 ? " and all others" : "all others") : models.length === 0 && "–"}
    </>
  );
}

export function EngineList({ program }: { program: string | null }) {
  const [reply, setReply] = useState<Engines>();
  useEffect(() => void get<Engines>("api/engines").then(setReply, tellError), [program]);
  if (reply === undefined) return null;
  return (
    <section aria-labelledby="engines">
      <h2 id="engines">Engines</h2>
      {reply.engines.length > 0 && (
        <Table label="Engines" columns={COLUMNS} rows={reply.engines}
          keyOf={({ name }) => name} />
      )}
      {reply.used === null && (
        <p class="quiet">
          {reply.engines.length === 0 ? "None was added" : "None of them is used"}: servers start
          with {program ?? "no llama-server"}. On the server, root adds one and changes to it:{" "}
          <Command text="magictl engine add NAME PATH" /> <Command text="magictl engine use NAME" />
        </p>
      )}
    </section>
  );
}
