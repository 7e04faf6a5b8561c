// What the dashboard stream has said so far, as one value. Pure.
import type {
  Condition,
  Download,
  Downloads,
  Gpus,
  Memory,
  Model,
  Registry,
  Server,
  Versions,
} from "../api/types.ts";

/** Counts since magid started; tokens are those of requests that have ended. */
export interface RequestCounts {
  running: number;
  waiting: number;
  ended: number;
  refused: number; // by routing
  promptTokens: number;
  answerTokens: number;
}

export interface Live {
  registry: Registry;
  servers: Record<number, Server>;
  profiles: string[];
  requests: RequestCounts;
  memory: Memory;
  gpus: Gpus;
  downloads: Record<string, Download>;
  library: string | null; // the folder that downloads go to
  versions: Versions;
  phase: string;
  ready: boolean;
  reasons: string[];
  problems: string[];
  conditions: Condition[];
  activeProfile: string | null;
  pendingChanges: { stop: number; start: number };
}

/** One event of the stream: its kind, and its data as JSON. */
export interface LiveEvent {
  kind: string;
  data: Record<string, unknown>;
}

/** The kinds of events that `applied` knows; `resync` ends a stream. */
export const KINDS = [
  "snapshot", "registry", "memory", "server", "serverRemoved", "gpus", "figures", "status",
  "phase", "profile", "profiles", "requests", "download", "downloadRemoved",
] as const;

/** What an event makes of the state; undefined until the first snapshot. */
export function applied(live: Live | undefined, event: LiveEvent): Live | undefined {
  const { kind, data } = event;
  if (kind === "snapshot") return fromSnapshot(data);
  if (live === undefined) return undefined;
  switch (kind) {
    case "registry":
      return { ...live, registry: withChanges(live.registry, data as unknown as Changes) };
    case "memory":
      return { ...live, registry: withFits(live.registry, data.models as Fits) };
    case "server": {
      const server = data.server as Server;
      return { ...live, servers: { ...live.servers, [server.port]: server } };
    }
    case "serverRemoved":
      return { ...live, servers: without(live.servers, data.port as number) };
    case "gpus":
      return { ...live, gpus: data as unknown as Gpus };
    case "figures":
      return withFigures(live, data as unknown as Figures);
    case "download": {
      const download = data.download as Download;
      return { ...live, downloads: { ...live.downloads, [download.id]: download } };
    }
    case "downloadRemoved":
      return { ...live, downloads: without(live.downloads, data.id as string) };
    case "profiles":
      return { ...live, profiles: data.profiles as string[] };
    case "requests":
      return { ...live, requests: data.requests as RequestCounts };
    default: // status, phase, profile: the same keys, to be replaced
      return { ...live, ...(data as Partial<Live>) };
  }
}

function fromSnapshot(data: Record<string, unknown>): Live {
  const { servers, downloads, ...rest } = data as unknown as Omit<Live, "servers" | "downloads"> & {
    servers: { servers: Server[] };
    downloads: Downloads;
  };
  return {
    ...rest,
    servers: byPort(servers.servers),
    downloads: Object.fromEntries(downloads.downloads.map((one) => [one.id, one])),
    library: downloads.library,
  };
}

function byPort(servers: Server[]): Record<number, Server> {
  return Object.fromEntries(servers.map((server) => [server.port, server]));
}

interface Changes {
  models: Record<string, Model>;
  removed: string[];
  registry: Partial<Registry>;
}

function withChanges(registry: Registry, changes: Changes): Registry {
  const models = { ...registry.models, ...changes.models };
  for (const id of changes.removed) delete models[id];
  return { ...registry, ...changes.registry, models };
}

type Fits = Record<string, Model["memory"]>;

/** Whether models fit; of one that has gone meanwhile nothing is kept. */
function withFits(registry: Registry, fits: Fits): Registry {
  const models = { ...registry.models };
  for (const [id, memory] of Object.entries(fits)) {
    const model = models[id];
    if (model !== undefined) models[id] = { ...model, memory };
  }
  return { ...registry, models };
}

function without<K extends string | number, T>(all: Record<K, T>, key: K): Record<K, T> {
  const left = { ...all };
  delete left[key];
  return left;
}

type Figure = Pick<Server, "port" | "modelId" | "memoryBytes" | "cpuSeconds" | "uptimeSeconds">;

interface Figures {
  servers: Figure[];
  memory: Memory;
}

function withFigures(live: Live, figures: Figures): Live {
  const servers = { ...live.servers };
  for (const figure of figures.servers) {
    const server = servers[figure.port];
    if (server?.modelId === figure.modelId) servers[figure.port] = { ...server, ...figure };
  }
  return { ...live, servers, memory: figures.memory };
}
