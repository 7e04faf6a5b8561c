// The log of magid, or of a model.
import { computed } from "@preact/signals";
import { useState } from "preact/hooks";

import { Log } from "../parts/log.tsx";
import { live } from "../stream/client.ts";

const OWN = "";

/** Ids and names of the models that have a server. As text, which stays equal while they do. */
const names = computed(() => {
  const { servers = {}, registry } = live.value ?? {};
  const ids = new Set(Object.values(servers).map(({ modelId }) => modelId));
  const name = (id: string) => registry?.models[id]?.displayName ?? id;
  return JSON.stringify([...ids].sort().map((id) => [id, name(id)]));
});

export default function Logs() {
  const [chosen, choose] = useState(OWN);
  const models = JSON.parse(names.value) as [string, string][];
  const name = models.find(([id]) => id === chosen)?.[1] ?? chosen;
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
          {models.map(([id, title]) => (
            <option key={id} value={id}>
              {title}
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
