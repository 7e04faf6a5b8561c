// Models: the list, or one of them.
import { route } from "../shell/route.ts";
import { ModelPage } from "./detail.tsx";
import { ModelList } from "./list.tsx";

export default function Models() {
  const [modelId] = route.value.rest;
  return modelId === undefined ? <ModelList /> : <ModelPage key={modelId} modelId={modelId} />;
}
