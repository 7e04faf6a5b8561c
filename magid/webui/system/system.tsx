// The machine and magid: versions, GPUs, engines, usage, tokens, and the configuration.
import { mayChange, post } from "../api/request.ts";
import type { Gpu, Gpus } from "../api/types.ts";
import { gpuUses } from "../overview/memory.ts";
import { bytes, count, moment } from "../parts/format.ts";
import { MemoryBar } from "../parts/memory_bar.tsx";
import { tell, tellError } from "../parts/notices.tsx";
import { Table, type Column } from "../parts/table.tsx";
import { live } from "../stream/client.ts";
import type { Live } from "../stream/state.ts";
import { ConfigurationView } from "./configuration.tsx";
import { EngineList } from "./engines.tsx";
import { Tokens } from "./tokens.tsx";
import { UsageView } from "./usage.tsx";

export default function System() {
  const now = live.value;
  if (now === undefined) return <h1>System</h1>;
  return (
    <>
      <h1>System</h1>
      <About live={now} />
      <GpuList live={now} />
      <EngineList program={now.versions.llamaServerPath} />
      <UsageView />
      {mayChange() && <Tokens />}
      <ConfigurationView />
    </>
  );
}

function About({ live: { versions, registry, memory, activeProfile } }: { live: Live }) {
  const facts: [string, string][] = [
    ["magid", versions.magid],
    ["Python", versions.python],
    ["llama-server", versions.llamaServer ?? "not found"],
    ["Its program", versions.llamaServerPath ?? "–"],
    ["Model folders", registry.scanPaths.join(", ")],
    ["Last read", moment(registry.lastScan)],
    ["Ports of servers", registry.portRange.join(" to ")],
    ["Active profile", activeProfile ?? "none"],
    ["Main memory", bytes(memory.totalBytes)],
    ["Powerful from", `${count(registry.tierThresholds.powerful_min)} billion parameters`],
    ["Fast below", `${count(registry.tierThresholds.fast_max)} billion parameters`],
  ];
  return (
    <dl class="facts">
      {facts.map(([name, value]) => (
        <div key={name}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}

async function refresh(): Promise<void> {
  try {
    const { gpus } = await post<Gpus>("api/gpus/refresh");
    tell(`llama-server lists ${gpus.length} GPUs`);
  } catch (error) {
    tellError(error);
  }
}

const COLUMNS: Column<Gpu>[] = [
  { key: "name", title: "GPU", cell: ({ name, description }) => (
    <>
      <span class="name">{name}</span> <span class="quiet">{description}</span>
    </>
  ) },
  { key: "id", title: "Id", low: true, cell: ({ id }) => <code title={id}>{id}</code> },
  { key: "backend", title: "By", low: true, cell: ({ backend }) => backend },
  { key: "used", title: "In use", isNumber: true, cell: ({ usedBytes }) => bytes(usedBytes) },
  { key: "room", title: "Room", isNumber: true, low: true, cell: ({ roomBytes }) =>
    bytes(roomBytes) },
  { key: "total", title: "All", isNumber: true, cell: ({ totalBytes }) => bytes(totalBytes) },
];

function GpuList({ live }: { live: Live }) {
  const { gpus, problem, listedAt, reserveBytes } = live.gpus;
  return (
    <section aria-labelledby="gpus">
      <div class="heading">
        <h2 id="gpus">GPUs</h2>
        <span class="quiet">
          listed at {moment(listedAt)}; {bytes(reserveBytes)} of each stay free
        </span>
        {mayChange() && <button onClick={() => void refresh()}>List again</button>}
      </div>
      {problem && <p class="problem">{problem}</p>}
      {gpus.length === 0 ? (
        <p class="quiet">llama-server lists none. On the server, magictl doctor says why.</p>
      ) : (
        <>
          {gpuUses(live).map(({ key, ...use }) => <MemoryBar key={key} {...use} />)}
          <Table label="GPUs" columns={COLUMNS} rows={gpus} keyOf={({ name }) => name} />
        </>
      )}
    </section>
  );
}
