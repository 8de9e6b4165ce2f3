// The part of the address behind #, as a view. #/m/l0-50/f/12?tab=uniform
import { store } from "./store";

export interface Route {
  path: string[];
  query: URLSearchParams;
}

let seen: string;

function read(): Route {
  seen = location.hash;
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?", 2);
  return { path: path.split("/").filter(Boolean).map(decode), query: new URLSearchParams(query ?? "") };
}

function decode(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

export const route = store<Route>(read());
const arrive = () => route.set(read());
addEventListener("hashchange", () => seen === location.hash || arrive());

export function link(...path: (string | number)[]): string {
  return "#/" + path.map((part) => encodeURIComponent(part)).join("/");
}

export const toMember = (name: string) => link("m", name);
export const toFeature = (name: string, i: number) => link("m", name, "f", i);
export const toToken = (name: string, s: number, position: number) => link("m", name, "text", s, position);

/** At once, not with the event that follows: a second key may come before it. */
export function go(hash: string): void {
  location.hash = hash;
  arrive();
}

/** Changes the address without a step in the browser's history. */
export function replace(hash: string): void {
  history.replaceState(null, "", hash);
  arrive();
}

/** Sets or clears one key of the query, in place. */
export function setQuery(changes: Record<string, string | null>): void {
  const now = read();
  for (const [key, value] of Object.entries(changes)) value === null ? now.query.delete(key) : now.query.set(key, value);
  const query = now.query.toString();
  replace(link(...now.path) + (query ? `?${query}` : ""));
}
