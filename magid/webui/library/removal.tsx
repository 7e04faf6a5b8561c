// Removes the files of a model: shows first what goes, what is freed and what stays.
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

import { remove } from "../api/request.ts";
import type { Removal } from "../api/types.ts";
import { confirmed } from "../parts/dialog.tsx";
import { bytes, counted } from "../parts/format.ts";
import { tell, tellError } from "../parts/notices.tsx";
import { live } from "../stream/client.ts";

const SHOWN = 12; // of many files

// Of one model at a time, from the button to the answer: a slow plan replaces no open question.
const isAsking = signal(false);

interface ButtonProps {
  modelId: string;
  name: string;
  onGone: () => void;
  children: ComponentChildren;
}

export function RemoveButton({ modelId, name, onGone, children }: ButtonProps) {
  const [isBusy, setBusy] = useState(false);
  const ask = async () => {
    if (isBusy || isAsking.peek()) return;
    setBusy(true);
    const isGone = await removeModel(modelId, name);
    setBusy(false);
    if (isGone) onGone();
  };
  return (
    <button
      aria-disabled={isBusy || isAsking.value}
      aria-label={`Remove the files of ${name}`}
      onClick={() => void ask()}
    >
      {children}
    </button>
  );
}

const pathOf = (modelId: string) => `api/models/${encodeURIComponent(modelId)}?files=true`;

/** Returns whether the files are gone. */
async function removeModel(modelId: string, name: string): Promise<boolean> {
  try {
    const agreed = await asked(modelId, name);
    if (agreed === undefined) return false;
    const { plan, runs, forgets } = agreed;
    const options = `${runs ? "&stop=true" : ""}${forgets ? "&forget=true" : ""}`;
    const done = await remove<Removal>(`${pathOf(modelId)}${options}`);
    tellOf(done, plan);
    if (forgets && !done.forgotten) tell(`what was decided of ${name} stays with its files`, "bad");
    return true;
  } catch (error) {
    tellError(error);
    return false;
  }
}

interface Agreed {
  plan: Removal;
  runs: boolean;
  forgets: boolean;
}

/** Shows what would go. Undefined: nothing can, or the user does not want it. Raises ApiError. */
async function asked(modelId: string, name: string): Promise<Agreed | undefined> {
  isAsking.value = true;
  try {
    const plan = await remove<Removal>(`${pathOf(modelId)}&dryRun=true`);
    const [first] = plan.stays;
    if (plan.removed.length === 0) {
      tell(`cannot remove ${name}: ${first ? `${first.path} ${first.reason}` : "no files"}`, "bad");
      return undefined;
    }
    const runs = isRunning(modelId);
    let forgets = false;
    const yes = `Remove ${counted(plan.removed.length, "file")}`;
    const text = (
      <PlannedRemoval plan={plan} runs={runs} onForget={(chosen) => (forgets = chosen)} />
    );
    const isAgreed = await confirmed(`Remove the files of ${name}?`, text, yes);
    return isAgreed ? { plan, runs, forgets } : undefined;
  } finally {
    isAsking.value = false;
  }
}

function isRunning(modelId: string): boolean {
  return Object.values(live.peek()?.servers ?? {}).some(
    (server) => server.modelId === modelId && (server.isRunning || server.state === "backoff"),
  );
}

/** What was done, and each file that has stayed without being named in the plan. */
function tellOf(done: Removal, plan: Removal): void {
  tell(done.message);
  const planned = new Set(plan.stays.map(({ path }) => path));
  for (const { path, reason } of done.stays) {
    if (!planned.has(path)) tell(`${path} ${reason}`, "bad");
  }
}

interface PlannedProps {
  plan: Removal;
  runs: boolean;
  onForget: (forgets: boolean) => void;
}

function PlannedRemoval({ plan, runs, onForget }: PlannedProps) {
  return (
    <>
      {runs && <p>It is running; its servers are stopped first.</p>}
      <p>This frees {bytes(plan.freedBytes)}. To have the model back, get its files again.</p>
      <Files title="Goes" files={plan.removed.map((path) => ({ path, reason: "" }))} />
      <Files title="Stays" files={plan.stays} />
      <label class="check">
        <input type="checkbox" onChange={(event) => onForget(event.currentTarget.checked)} />{" "}
        Also forget what was decided of it
      </label>
      <p class="quiet">
        Else its settings, tier and port are kept for a while, should its files come back.
      </p>
    </>
  );
}

function Files({ title, files }: { title: string; files: Removal["stays"] }) {
  if (files.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <ul class="plain">
        {files.slice(0, SHOWN).map(({ path, reason }) => (
          <li key={path}>
            <code>{path}</code> <span class="quiet">{reason}</span>
          </li>
        ))}
        {files.length > SHOWN && <li class="quiet">and {files.length - SHOWN} more</li>}
      </ul>
    </>
  );
}
