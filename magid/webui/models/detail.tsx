// One model: what it is, how it runs, whether it fits, its requests and its log.
import type { ComponentChildren } from "preact";
import { useEffect, useState } from "preact/hooks";

import { useRequests } from "../activity/recent.ts";
import { RequestTable } from "../activity/table.tsx";
import { get, mayChange } from "../api/request.ts";
import type { ModelDetail } from "../api/types.ts";
import { RemoveButton } from "../library/removal.tsx";
import { copy } from "../parts/copy.tsx";
import { Empty } from "../parts/empty.tsx";
import { bytes, count, duration, moment } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { Log } from "../parts/log.tsx";
import { StateBadge } from "../parts/state.tsx";
import { go, to } from "../shell/route.ts";
import { live } from "../stream/client.ts";
import {
  EnabledSwitch,
  PinButton,
  PortField,
  shownState,
  Source,
  ThinkingSwitch,
  TierChoice,
  Verbs,
  type Decision,
} from "./controls.tsx";
import { Fit } from "./fit.tsx";
import { Origin } from "./origin.tsx";
import { pins } from "./pins.ts";
import { rowOf, type Row } from "./rows.ts";
import { Settings } from "./settings.tsx";

export function ModelPage({ modelId }: { modelId: string }) {
  const now = live.value;
  const model = now?.registry.models[modelId];
  const servers = Object.values(now?.servers ?? {}).filter((one) => one.modelId === modelId);
  const places = servers.map(({ port, isRunning, placement }) => [port, isRunning, placement]);
  const [detail, reload, problem] = useDetail(modelId, JSON.stringify([model, places]));
  if (now === undefined) return <h1>{modelId}</h1>;
  if (model === undefined) return <Unknown modelId={modelId} />;
  const row = rowOf(model, servers, pins.value.has(modelId));
  return (
    <>
      <p class="crumbs">
        <a href={to("models")}>
          <Icon name="back" /> Models
        </a>
      </p>
      <div class="heading">
        <h1>{model.displayName}</h1>
        <StateBadge state={shownState(row)} why={row.why} />
        <span class="grow" />
        <Verbs row={row} withWords />
        <PinButton model={model} />
      </div>
      <Notes row={row} />
      <Facts row={row} sources={detail?.sources ?? {}} />
      {problem && <p class="problem">{problem}</p>}
      {detail && <Details detail={detail} row={row} reload={reload} />}
    </>
  );
}

/** The detail, asked for again whenever the stream has said that the model is another. */
export function useDetail(modelId: string, revision: string) {
  const [detail, setDetail] = useState<ModelDetail>();
  const [problem, setProblem] = useState("");
  const [asked, setAsked] = useState(0);
  useEffect(() => {
    const abort = new AbortController();
    const path = `api/models/${encodeURIComponent(modelId)}`;
    get<ModelDetail>(path, abort.signal).then(
      (answer) => {
        setDetail(answer);
        setProblem("");
      },
      (error: Error) => abort.signal.aborted || setProblem(error.message),
    );
    return () => abort.abort();
  }, [modelId, revision, asked]);
  return [detail, () => setAsked(asked + 1), problem] as const;
}

function Unknown({ modelId }: { modelId: string }) {
  return (
    <Empty title={`There is no model ${modelId}`}>
      <p>
        Its files may have been moved away. <a href={to("models")}>All models</a>
      </p>
    </Empty>
  );
}

/** Why it does not run, and that changed settings need a restart. */
function Notes({ row }: { row: Row }) {
  const isOld = row.servers.some((server) => server.isRunning && !server.specCurrent);
  const isWhy = row.why !== "" && row.state !== "ready";
  return (
    <>
      {isWhy && <p class={row.state === "failed" ? "problem" : "quiet"}>{row.why}</p>}
      {isOld && (
        <p class="note warn">
          <Icon name="info" /> It runs with older settings; a restart takes over the new ones.
        </p>
      )}
    </>
  );
}

function Fact({ name, children }: { name: string; children: ComponentChildren }) {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{children}</dd>
    </div>
  );
}

function Facts({ row, sources }: { row: Row; sources: Record<string, string> }) {
  const { model, servers } = row;
  const decided = (what: Decision) => <Source model={model} what={what} source={sources[what]} />;
  return (
    <dl class="facts">
      <Fact name="Id">
        <code>{model.modelId}</code>
      </Fact>
      <Fact name="Tier">
        <TierChoice model={model} /> {decided("tier")}
      </Fact>
      <Fact name="Enabled">
        <EnabledSwitch model={model} /> {decided("enabled")}
      </Fact>
      <Fact name="Thinks">
        <ThinkingSwitch model={model} /> {decided("thinking")}{" "}
        <span class="quiet">({model.thinkingEvidence})</span>
      </Fact>
      <Fact name="Kind">{model.kind}</Fact>
      <Fact name="Architecture">{model.architecture}</Fact>
      <Fact name="Parameters">{count(model.parameterCount)}</Fact>
      <Fact name="Quantization">{model.quantization}</Fact>
      <Fact name="Trained context">{count(model.contextLength)}</Fact>
      <Fact name="Can">{abilities(row)}</Fact>
      <Fact name="Runs on">{row.place}</Fact>
      <Fact name="Memory">{bytes(row.memory)}</Fact>
      <Fact name="Up for">{duration(row.uptime)}</Fact>
      <Fact name="Port">
        <PortField model={model} /> {decided("port")}
      </Fact>
      {servers.length > 1 && (
        <Fact name="All ports">{servers.map(({ port }) => port).join(", ")}</Fact>
      )}
      <Fact name="Found">{moment(model.discoveredAt)}</Fact>
    </dl>
  );
}

function abilities({ model: { abilities } }: Row): string {
  const can = (["tools", "images", "audio", "infill"] as const).filter((one) => abilities[one]);
  return can.join(", ") || "text";
}

/** The values that decide how its servers run. */
function settingsOf(detail: ModelDetail): unknown[] {
  const values = detail as unknown as Record<string, unknown>;
  return Object.keys(detail.sources).map((key) => values[key]);
}

const hasGpus = () => (live.value?.gpus.gpus.length ?? 0) > 0;

interface DetailsProps {
  detail: ModelDetail;
  row: Row;
  reload: () => void;
}

function Details({ detail, row, reload }: DetailsProps) {
  const [fields, setFields] = useState<Record<string, string>>({});
  return (
    <>
      <Section id="fit" title="Memory">
        <Fit
          modelId={detail.modelId}
          ctxSize={fields.ctxSize ?? ""}
          parallel={fields.parallel ?? ""}
          revision={JSON.stringify([settingsOf(detail), row.state])}
        />
      </Section>
      <Section id="settings" title="Settings">
        <Settings detail={detail} onFields={setFields} onSaved={reload} />
      </Section>
      <Section id="command" title="Command line">
        <p class="quiet">{detail.wanted ? "Runs" : "Does not run"}: {detail.wantedReason}</p>
        {row.servers.every((server) => !server.isRunning) && hasGpus() && (
          <p class="quiet">On which GPU it runs is decided at its start, and adds options.</p>
        )}
        {detail.argvProblem && <p class="problem">{detail.argvProblem}</p>}
        {detail.argv.map((words) => (
          <div class="argv" key={words.join(" ")}>
            <pre tabIndex={0} aria-label="Command line">{words.join(" ")}</pre>
            <button
              class="bare"
              aria-label="Copy the command"
              onClick={() => void copy(words.join(" "))}
            >
              <Icon name="copy" />
            </button>
          </div>
        ))}
      </Section>
      <Section id="origin" title="Where it comes from">
        <Origin origin={detail.origin} />
      </Section>
      <Files detail={detail} />
      <Section id="requests" title="Requests">
        <LastRequests modelId={detail.modelId} />
      </Section>
      <Section id="log" title="Log">
        <Log path={`api/models/servers/${encodeURIComponent(detail.modelId)}/logs`}
          label={`Log of ${detail.displayName}`} height="short" />
      </Section>
    </>
  );
}

function Files({ detail }: { detail: ModelDetail }) {
  return (
    <Section id="files" title="Files">
      <ul class="plain">
        {detail.files.map((file) => (
          <li key={file}><code>{file}</code></li>
        ))}
        {detail.companions.map(({ kind, filePath }) => (
          <li key={filePath}><code>{filePath}</code> <span class="quiet">{kind}</span></li>
        ))}
      </ul>
      <p class="quiet">{bytes(detail.sizeBytes)} together</p>
      {mayChange() && (
        <RemoveButton
          modelId={detail.modelId}
          name={detail.displayName}
          onGone={() => go("models")}
        >
          Remove the files
        </RemoveButton>
      )}
    </Section>
  );
}

const LAST = 10;

function LastRequests({ modelId }: { modelId: string }) {
  const requests = useRequests()?.filter((request) => request.modelId === modelId);
  if (requests === undefined) return null;
  if (requests.length === 0) return <p class="quiet">None since magid started.</p>;
  return <RequestTable requests={requests.slice(0, LAST)} />;
}

interface SectionProps {
  id: string;
  title: string;
  children: ComponentChildren;
}

function Section({ id, title, children }: SectionProps) {
  return (
    <section aria-labelledby={id}>
      <h2 id={id}>{title}</h2>
      {children}
    </section>
  );
}
