// The servers that run, are about to, or have failed.
import type { Server } from "../api/types.ts";
import { bytes, duration } from "../parts/format.ts";
import { StateBadge } from "../parts/state.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { to } from "../shell/route.ts";
import { memoryOf, placeOf } from "./memory.ts";
import { listed } from "./order.ts";

const COLUMNS: Column<Server>[] = [
  {
    key: "name",
    title: "Model",
    cell: (server) => (
      <>
        <a class="name" href={to("models", server.modelId)} title={server.modelId}>
          {server.displayName}
        </a>
        {server.instance > 0 && <span class="quiet"> #{server.instance}</span>}
      </>
    ),
  },
  {
    key: "state",
    title: "State",
    cell: (server) => <StateBadge state={server.state} why={server.stateReason} />,
  },
  {
    key: "reason",
    title: "Why",
    low: true,
    cell: (server) => <span title={server.stateReason}>{server.stateReason}</span>,
  },
  { key: "tier", title: "Tier", low: true, cell: (server) => server.tier },
  { key: "place", title: "Runs on", low: true, cell: placeOf },
  {
    key: "memory",
    title: "Memory",
    isNumber: true,
    cell: (server) => bytes(memoryOf([server])),
  },
  {
    key: "uptime",
    title: "Up for",
    isNumber: true,
    low: true,
    cell: (server) => (server.isRunning ? duration(server.uptimeSeconds) : "–"),
  },
  { key: "port", title: "Port", isNumber: true, low: true, cell: (server) => String(server.port) },
];

export function Servers({ servers }: { servers: Record<number, Server> }) {
  const rows = listed(servers);
  if (rows.length === 0) return null;
  return (
    <section aria-labelledby="servers">
      <h2 id="servers">Servers</h2>
      <Table
        label="Servers"
        columns={COLUMNS}
        rows={rows}
        keyOf={(server) => String(server.port)}
      />
    </section>
  );
}
