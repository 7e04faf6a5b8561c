// Which view is shown: it stands behind the # of the address, so that magid serves one page.
import { signal } from "@preact/signals";

export interface Route {
  view: string;
  rest: string[]; // `#/models/alpha` is view models, rest ["alpha"]
}

export const DEFAULT_VIEW = "overview";

/** What the part of an address behind # means; what cannot be decoded is left as it is. Pure. */
export function parsed(hash: string): Route {
  const words = hash.replace(/^#?\/?/, "").split("/").filter((word) => word !== "");
  const [view = DEFAULT_VIEW, ...rest] = words.map(decoded);
  return { view, rest };
}

function decoded(word: string): string {
  try {
    return decodeURIComponent(word);
  } catch {
    return word;
  }
}

/** The address of a view: `#/models/alpha`. */
export function to(view: string, ...rest: string[]): string {
  return `#/${[view, ...rest].map(encodeURIComponent).join("/")}`;
}

export const route = signal<Route>({ view: DEFAULT_VIEW, rest: [] });

export function go(view: string, ...rest: string[]): void {
  location.hash = to(view, ...rest);
}

/** Called once. */
export function followAddress(): void {
  const read = () => {
    route.value = parsed(location.hash);
  };
  addEventListener("hashchange", read);
  read();
}
