// The log of magid, or of a model.
import { useState } from "preact/hooks";

import { Log } from "../parts/log.tsx";
import { live } from "../stream/client.ts";

const OWN = "";

export default function Logs() {
  const [chosen, choose] = useState(OWN);
  const models = live.value?.registry.models ?? {};
  const servers = Object.values(live.value?.servers ?? {});
  const ids = [...new Set(servers.map(({ modelId }) => modelId))].sort();
  const name = models[chosen]?.displayName ?? chosen;
  return (
    <>
      <div class="heading">
        <h1>Logs</h1>
        <select
          aria-label="Log of"
          value={chosen}
          onChange={(event) => choose(event.currentTarget.value)}
        >
          <option value={OWN}>magid</option>
          {ids.map((id) => (
            <option key={id} value={id}>
              {models[id]?.displayName ?? id}
            </option>
          ))}
        </select>
      </div>
      {chosen === OWN ? (
        <Log key={OWN} path="api/logs" label="Log of magid" hasLevels />
      ) : (
        <Log
          key={chosen}
          path={`api/models/servers/${encodeURIComponent(chosen)}/logs`}
          label={`Log of ${name}`}
        />
      )}
    </>
  );
}
