// What one server of a model needs, by device, and whether that fits now.
import { useEffect, useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { ModelMemory } from "../api/types.ts";
import { bytes, count } from "../parts/format.ts";
import { Icon, type IconName } from "../parts/icons.tsx";
import { parsed } from "./settings_form.ts";

const FITS: Record<ModelMemory["fits"], { word: string; icon: IconName; tone: string }> = {
  yes: { word: "Fits", icon: "ready", tone: "good" },
  tight: { word: "Fits tightly", icon: "ready", tone: "good" },
  part: { word: "Fits in part on the GPU", icon: "info", tone: "busy" },
  no: { word: "Does not fit", icon: "failed", tone: "bad" },
  unknown: { word: "Unknown", icon: "info", tone: "quiet" },
};

const SETTLE_MS = 600; // after the last key: each answer may need a prediction

interface Props {
  modelId: string;
  ctxSize: string; // as it stands in the form; empty: the model's own setting
  parallel: string;
  revision: string; // asks again when it changes
}

export function Fit({ modelId, ctxSize, parallel, revision }: Props) {
  const [memory, setMemory] = useState<ModelMemory>();
  const [problem, setProblem] = useState("");
  useEffect(() => {
    const abort = new AbortController();
    const ask = async () => {
      try {
        setMemory(await get<ModelMemory>(address(modelId, ctxSize, parallel), abort.signal));
        setProblem("");
      } catch (error) {
        if (!abort.signal.aborted) setProblem((error as Error).message);
      }
    };
    const timer = setTimeout(() => void ask(), ctxSize || parallel ? SETTLE_MS : 0);
    return () => {
      clearTimeout(timer);
      abort.abort();
    };
  }, [modelId, ctxSize, parallel, revision]);
  if (problem) return <p class="problem">{problem}</p>;
  if (memory === undefined) return <p class="quiet">llama-server predicts what it needs …</p>;
  const { word, icon, tone } = FITS[memory.fits];
  return (
    <>
      <p>
        <span class={`state ${tone}`}>
          <Icon name={icon} /> {word}
        </span>{" "}
        <span class="quiet">{memory.why}</span>
      </p>
      <Needs memory={memory} />
    </>
  );
}

function address(modelId: string, ctxSize: string, parallel: string): string {
  const query = new URLSearchParams();
  for (const [key, text] of Object.entries({ ctxSize, parallel })) {
    const value = typedNumber(text);
    if (value !== null) query.set(key, String(value));
  }
  return `api/models/${encodeURIComponent(modelId)}/memory?${query.toString()}`;
}

/** What is typed so far; null: nothing yet, or no number. */
function typedNumber(text: string): number | null {
  try {
    return parsed(text, "whole") as number | null;
  } catch {
    return null;
  }
}

function Needs({ memory }: { memory: ModelMemory }) {
  const places = [
    ...memory.devices.map((device) => ({ ...device, room: device.roomBytes })),
    ...(memory.host?.buffers ?? []).map((buffer) => ({
      ...buffer,
      room: memory.host?.availableBytes ?? null,
    })),
  ];
  if (places.length === 0) return null;
  return (
    <div class="scroll" role="region" aria-label="Memory of one server" tabIndex={0}>
      <table aria-label="Memory of one server">
        <thead>
          <tr>
            <th scope="col">On</th>
            <th scope="col" class="number">Weights</th>
            <th scope="col" class="number">Context</th>
            <th scope="col" class="number">Compute</th>
            <th scope="col" class="number">Together</th>
            <th scope="col" class="number low">Room now</th>
          </tr>
        </thead>
        <tbody>
          {places.map((place) => (
            <tr key={place.name}>
              <td>{place.name}</td>
              <td class="number">{bytes(place.modelBytes)}</td>
              <td class="number">{bytes(place.contextBytes)}</td>
              <td class="number">{bytes(place.computeBytes)}</td>
              <td class="number">{bytes(place.totalBytes)}</td>
              <td class="number low">{bytes(place.room)}</td>
            </tr>
          ))}
        </tbody>
        {memory.ctxSize !== null && <caption>With a context of {count(memory.ctxSize)}</caption>}
      </table>
    </div>
  );
}
