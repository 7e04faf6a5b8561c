// Names for what the API answers. `schema.d.ts` is made from /openapi.json: see docs/page.md.
import type { components } from "./schema.d.ts";

type Schemas = components["schemas"];

export type Server = Schemas["Server"];
export type ServerState = Schemas["ServerState"];
export type Model = Schemas["DiscoveredModel"];
export type ModelDetail = Schemas["ModelDetail"];
export type ModelMemory = Schemas["ModelMemory"];
export type Registry = Schemas["RegistryReply"];
export type Condition = Schemas["Condition"];
export type Gpus = Schemas["GpusReply"];
export type Gpu = Schemas["ListedGpu"];
export type Memory = Schemas["Memory"];
export type Versions = Schemas["Versions"];
export type Tier = Schemas["Tier"];
export type Plan = Schemas["PlanReply"];
export type PlanLine = Schemas["PlanLine"];
export type Profile = Schemas["ProfileReply"];
export type GatewayRequest = Schemas["GatewayRequest"];
export type Requests = Schemas["RequestsReply"];
export type Captured = Schemas["CapturedTexts"];
export type Usage = Schemas["UsageReply"];
export type Configuration = Schemas["ConfigurationReply"];
export type Engines = Schemas["EnginesReply"];
export type Token = Schemas["ApiToken"];
export type Tokens = Schemas["TokensReply"];
export type LogEntry = Schemas["LogEntry"];
export type OwnLogEntry = Schemas["OwnLogEntry"];
export type ServerAction = Schemas["ServerAction"];
export type Download = Schemas["Download"];
export type Downloads = Schemas["DownloadsReply"];
export type Variant = Schemas["RepositoryVariant"];
export type Variants = Schemas["VariantsReply"];
export type Outdated = Schemas["OutdatedReply"];
export type ModelOrigin = Schemas["ModelOrigin"];
export type Disk = Schemas["DiskReply"];
export type FileOnDisk = Schemas["FileOnDiskReply"];
export type Removal = Schemas["RemovalReply"];
export type ErrorReply = Schemas["ErrorReply"];

/** Who this browser is to magid. */
export type Session = Schemas["SessionReply"];
