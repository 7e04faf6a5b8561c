// What the machine does now.
import { mayChange, post } from "../api/request.ts";
import { counted } from "../parts/format.ts";
import { Icon } from "../parts/icons.tsx";
import { act } from "../parts/notices.tsx";
import { MemoryBar } from "../parts/memory_bar.tsx";
import { NoModels } from "../parts/no_models.tsx";
import { live } from "../stream/client.ts";
import type { Live } from "../stream/state.ts";
import { memoryUses } from "./memory.ts";
import { shownConditions } from "./order.ts";
import { Problems } from "./problems.tsx";
import { Servers } from "./servers.tsx";
import { Traffic } from "./traffic.tsx";

export default function Overview() {
  const now = live.value;
  if (now === undefined) return <h1>Overview</h1>;
  return (
    <>
      <h1>Overview</h1>
      <Phase live={now} />
      <Problems conditions={shownConditions(now)} />
      <div class="columns">
        <section aria-labelledby="memory">
          <h2 id="memory">Memory</h2>
          {memoryUses(now).map(({ key, ...use }) => (
            <MemoryBar key={key} {...use} />
          ))}
          {now.gpus.problem && <p class="problem">{now.gpus.problem}</p>}
          {now.gpus.gpus.length === 0 && !now.gpus.problem && (
            <p class="quiet">llama-server lists no GPU here: models run on the processor.</p>
          )}
        </section>
        <Traffic />
      </div>
      <FirstModel live={now} />
      <Servers servers={now.servers} />
    </>
  );
}

const PHASES: Record<string, string> = {
  scanning: "Reading the model folders",
  starting: "Starting models",
  serving: "Serving",
  draining: "Ending: running requests are still answered",
};

function Phase({ live }: { live: Live }) {
  const isReady = live.ready && live.phase === "serving";
  const isBusy = live.phase === "scanning" || live.phase === "starting";
  const icon = isReady ? "ready" : isBusy ? "busy" : "failed";
  const tone = isReady ? "good" : isBusy ? "busy" : "bad";
  const ready = Object.values(live.servers).filter((server) => server.isReady).length;
  const models = Object.keys(live.registry.models).length;
  return (
    <p class="phase">
      <span class={`state ${tone}`}>
        <Icon name={icon} spins={icon === "busy"} />
        {live.phase === "serving" && !live.ready ? "Not ready" : PHASES[live.phase]}
      </span>
      <span>{counted(ready, "server")} ready</span>
      <span>{counted(models, "model")}</span>
      {live.activeProfile && <span>Profile {live.activeProfile}</span>}
    </p>
  );
}

function FirstModel({ live }: { live: Live }) {
  if (Object.keys(live.registry.models).length > 0 || live.phase === "scanning") return null;
  return (
    <NoModels live={live}>
      {mayChange() && (
        <button onClick={() => void act(() => post("api/models/rescan"))}>Read folders</button>
      )}
    </NoModels>
  );
}
