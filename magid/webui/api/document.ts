// The schemas of the API's document, of which forms are made.
import { get } from "./request.ts";

export interface Schema {
  type?: string;
  enum?: string[];
  description?: string;
  default?: unknown;
  properties?: Schemas;
  anyOf?: Schema[];
  items?: Schema;
  $ref?: string;
}
export type Schemas = Record<string, Schema>;

let known: Promise<Schemas> | undefined;

/** By their names; asked for once. */
export function schemas(): Promise<Schemas> {
  known ??= get<{ components: { schemas: Schemas } }>("openapi.json").then(
    (document) => document.components.schemas,
  );
  known.catch(() => (known = undefined));
  return known;
}

/** The schema that one leads to. */
export function resolved(schema: Schema, all: Schemas): Schema {
  const name = schema.$ref?.replace(/^.*\//, "");
  // What a kind of value is says nothing of this one.
  return name === undefined ? schema : { ...all[name], description: "", ...schema };
}
