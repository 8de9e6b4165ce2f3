// Which features the list shows, in which order: everything by plain arrays, so that 131,072 rows stay quick.
import { vocabulary } from "./data";
import type { Notes } from "./notes";
import { plain } from "./text";
import type { Index } from "./types";

export type Where = "all" | "index" | "token" | "logit" | "note" | "label";
export type Column = "index" | "density" | "max" | "mean" | "entropy" | "top_share" | "nearest_cos" | "first" | "long";

export interface Choice {
  query: string;
  where: Where;
  alive: "alive" | "all" | "never";
  density: string; // a key of DENSITIES
  entropy: string;
  kind: string; // a key of KINDS
  sort: Column;
  down: boolean;
}

export const FIRST: Choice = { query: "", where: "all", alive: "alive", density: "", entropy: "", kind: "", sort: "index", down: false };

type Range = [string, number, number];
export const DENSITIES: Record<string, Range> = {
  "1": ["under 0.01 %", 0, 1e-4],
  "2": ["0.01 to 0.1 %", 1e-4, 1e-3],
  "3": ["0.1 to 1 %", 1e-3, 1e-2],
  "4": ["1 to 10 %", 1e-2, 1e-1],
  "5": ["over 10 %", 1e-1, 2],
};
export const ENTROPIES: Record<string, Range> = {
  "1": ["one token: under 0.5 bits", -1, 0.5],
  "2": ["few tokens: 0.5 to 2 bits", 0.5, 2],
  "3": ["several: 2 to 5 bits", 2, 5],
  "4": ["many: over 5 bits", 5, 99],
};
export const KINDS: Record<string, string> = {
  "1": "not first token, not long",
  "2": "mostly the first token",
  "3": "mostly long activations",
  "4": "twins: nearest cosine ≥ 0.9",
  "5": "with a note or star",
};

let lowered: [number, string][] | undefined; // every token's text, for search

function texts(): [number, string][] {
  const { special, bytes } = vocabulary();
  lowered ??= [...Object.keys(bytes), ...Object.keys(special)].map((key) => [Number(key), plain(Number(key)).toLowerCase()]);
  return lowered;
}

/** By token id, 1 where the text holds the query; within quotes the text has to be the query. */
function tokensWith(query: string): Uint8Array {
  const exact = /^"(.+)"$/s.exec(query);
  const wanted = (exact ? exact[1] : query.trim()).toLowerCase();
  const matches = (text: string) => (exact ? text === wanted : text.includes(wanted));
  const found = new Uint8Array(1 + texts().reduce((most, [id]) => Math.max(most, id), 0));
  for (const [id, text] of texts()) if (matches(text)) found[id] = 1;
  return found;
}

const labelCache = new WeakMap<Index, string[]>();

function labelsOf(index: Index): string[] {
  let found = labelCache.get(index);
  if (!found) labelCache.set(index, (found = index.label.map((label) => (label ?? "").toLowerCase())));
  return found;
}

function searched(index: Index, name: string, choice: Choice, notes: Notes): (i: number) => boolean {
  const { query, where } = choice;
  const wanted = query.trim().toLowerCase();
  if (!wanted) return () => true;
  const number = /^#?(\d+)$/.exec(wanted);
  const exact = number ? Number(number[1]) : -1;
  if (where === "index") return number ? (i) => i === exact : () => false;
  const ids = tokensWith(query);
  const any = (list: number[]) => {
    for (const id of list) if (ids[id]) return true;
    return false;
  };
  const noted = new Set(Object.keys(notes).filter((at) => notes[at].text.toLowerCase().includes(wanted)));
  const labels = labelsOf(index);
  const token = (i: number) => any(index.tokens[i]);
  const logit = (i: number) => any(index.promotes[i]) || any(index.suppresses[i]);
  const note = (i: number) => noted.size > 0 && noted.has(`${name}/${i}`);
  const label = (i: number) => labels[i].includes(wanted);
  const one = { token, logit, note, label }[where as string];
  return one ?? ((i) => i === exact || token(i) || logit(i) || note(i) || label(i));
}

/** The features that pass, in order. Unknown numbers come last either way; ties by index. */
export function ordered(index: Index, name: string, choice: Choice, notes: Notes): Int32Array {
  const { density, entropy } = index;
  const matches = searched(index, name, choice, notes);
  const dense = DENSITIES[choice.density];
  const mixed = ENTROPIES[choice.entropy];
  const kept: number[] = [];
  for (let i = 0; i < density.length; i++) {
    const often = density[i] ?? 0;
    if (choice.alive === "alive" ? !often : choice.alive === "never" && often) continue;
    if (dense && !(often >= dense[1] && often < dense[2])) continue;
    if (mixed && !((entropy[i] ?? -2) >= mixed[1] && (entropy[i] ?? -2) < mixed[2])) continue;
    if (choice.kind && !ofKind(index, name, choice.kind, notes, i)) continue;
    if (matches(i)) kept.push(i);
  }
  const order = Int32Array.from(kept);
  if (choice.sort === "index") return choice.down ? order.reverse() : order;
  const column = index[choice.sort];
  const sign = choice.down ? -1 : 1;
  return order.sort((a, b) => {
    const x = column[a], y = column[b];
    if (x === null || y === null) return x === y ? a - b : x === null ? 1 : -1;
    return sign * (x - y) || a - b;
  });
}

function ofKind(index: Index, name: string, kind: string, notes: Notes, i: number): boolean {
  const first = (index.first[i] ?? 0) > 0.5;
  const long = (index.long[i] ?? 0) > 0.5;
  if (kind === "1") return !first && !long;
  if (kind === "2") return first;
  if (kind === "3") return long;
  if (kind === "4") return (index.nearest_cos[i] ?? 0) >= 0.9;
  const note = notes[`${name}/${i}`];
  return !!note && (note.star || note.text.trim() !== "");
}
