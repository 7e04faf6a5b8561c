// What stands where there are no models yet: how to get the first one.
import type { ComponentChildren } from "preact";

import { mayChange } from "../api/request.ts";
import { to } from "../shell/route.ts";
import type { Live } from "../stream/state.ts";
import { Empty } from "./empty.tsx";

export function NoModels({ live, children }: { live: Live; children?: ComponentChildren }) {
  const folders = live.registry.scanPaths.join(" or ");
  return (
    <Empty title="No models yet">
      {mayChange() && live.library !== null ? (
        <p>
          Get one in the <a href={to("library")}>Library</a>, or put GGUF files into {folders} and
          read the folders.
        </p>
      ) : (
        <p>GGUF files in {folders} become models when the folders are read.</p>
      )}
      {children}
    </Empty>
  );
}
