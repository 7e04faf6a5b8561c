// Get a model by the name of its repository: first what there is, then one of it.
import { useState } from "preact/hooks";

import { get } from "../api/request.ts";
import type { Variants } from "../api/types.ts";
import { VariantList } from "./variants.tsx";

interface Asked {
  isBusy: boolean;
  problem: string;
  found: Variants | undefined;
}

const NOTHING: Asked = { isBusy: false, problem: "", found: undefined };

export function Pull({ freeBytes }: { freeBytes: number | undefined }) {
  const [source, setSource] = useState("");
  const [asked, setAsked] = useState<Asked>(NOTHING);
  const submit = async (event: Event) => {
    event.preventDefault();
    if (asked.isBusy) return;
    setAsked({ ...NOTHING, isBusy: true });
    try {
      const query = new URLSearchParams({ source: source.trim() });
      const found = await get<Variants>(`api/library/variants?${query.toString()}`);
      setAsked({ ...NOTHING, found });
    } catch (error) {
      setAsked({ ...NOTHING, problem: (error as Error).message });
    }
  };
  return (
    <section aria-labelledby="pull">
      <h2 id="pull">Get a model</h2>
      <form class="filters" onSubmit={(event) => void submit(event)}>
        <label for="source">Repository</label>
        <input
          id="source"
          class="source"
          placeholder="ORG/REPOSITORY"
          required
          spellcheck={false}
          autocomplete="off"
          autocapitalize="off"
          aria-describedby="source-hint source-problem"
          aria-invalid={asked.problem !== ""}
          value={source}
          onInput={(event) => setSource(event.currentTarget.value)}
        />
        <button class="primary" aria-disabled={asked.isBusy}>
          Show variants
        </button>
      </form>
      <p class="quiet" id="source-hint">
        As on Hugging Face, for example bartowski/Qwen3-8B-GGUF; or the address of its page.
      </p>
      <p class="problem" id="source-problem" role="alert">
        {asked.problem}
      </p>
      <div role="status">
        {asked.isBusy && <p class="quiet">Asking the hub …</p>}
        {asked.found && <p class="hidden">{asked.found.variants.length} variants</p>}
      </div>
      {asked.found && (
        <VariantList found={asked.found} freeBytes={freeBytes} close={() => setAsked(NOTHING)} />
      )}
    </section>
  );
}
