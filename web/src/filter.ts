// Which features the list shows, in which order: everything by plain arrays, so that 131,072 rows stay quick.
import type { Notes } from "./notes";
import { plain } from "./text";
import type { Descriptions, Index } from "./types";

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

/** One lower-case text of all features, one after the other: a search is a few calls of indexOf. */
interface Hay {
  text: string;
  ends: Int32Array; // where each feature's part ends
}
const FIELD = "\u0001"; // before and after each token or sentence of a feature
type Hays = Record<"token" | "logit" | "label", Hay>;
const hays = new WeakMap<Index, { said: Descriptions | undefined; hays: Hays }>();
const lowered = new Map<number, string>();

function lower(id: number): string {
  let text = lowered.get(id);
  if (text === undefined) lowered.set(id, (text = plain(id).toLowerCase()));
  return text;
}

function hay(n: number, fields: (i: number) => string[]): Hay {
  const ends = new Int32Array(n);
  const parts: string[] = [];
  for (let i = 0, end = 0; i < n; i++) {
    parts.push(FIELD + fields(i).join(FIELD) + FIELD);
    ends[i] = end += parts[i].length;
  }
  return { text: parts.join(""), ends };
}

/** Made once: when the list is idle, or else at the first search. */
export function haysOf(index: Index, said?: Descriptions): Hays {
  let found = hays.get(index);
  if (!found || found.said !== said) {
    const n = index.density.length;
    const made = {
      token: found?.hays.token ?? hay(n, (i) => index.tokens[i].map(lower)),
      logit: found?.hays.logit ?? hay(n, (i) => [...index.promotes[i], ...index.suppresses[i]].map(lower)),
      label: hay(n, (i) => [index.label[i] ?? "", said?.[i]?.text ?? ""].map((text) => text.toLowerCase())),
    };
    hays.set(index, (found = { said, hays: made }));
  }
  return found.hays;
}

function mark({ text, ends }: Hay, wanted: string, found: Uint8Array): void {
  for (let i = 0, at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, ends[i])) {
    while (ends[i] <= at) i++;
    found[i] = 1;
  }
}

/** By feature, 1 where it is found; null where nothing is asked. Within quotes a token has to be the query. */
function searched(index: Index, name: string, { query, where }: Choice, notes: Notes, said?: Descriptions): Uint8Array | null {
  const wanted = query.trim().toLowerCase();
  if (!wanted) return null;
  const found = new Uint8Array(index.density.length);
  const number = /^#?(\d+)$/.exec(wanted);
  if (number && (where === "all" || where === "index")) found[Number(number[1])] = 1;
  if (where === "index") return found;
  const exact = /^"(.+)"$/s.exec(query);
  const all = haysOf(index, said);
  for (const kind of ["token", "logit", "label"] as const)
    if (where === "all" || where === kind) mark(all[kind], kind === "label" ? wanted : exact ? FIELD + exact[1].toLowerCase() + FIELD : wanted, found);
  if (where === "all" || where === "note")
    for (const [at, note] of Object.entries(notes)) if (at.startsWith(`${name}/`) && note.text.toLowerCase().includes(wanted)) found[Number(at.slice(name.length + 1))] = 1;
  return found;
}

export function ordered(index: Index, name: string, choice: Choice, notes: Notes, said?: Descriptions): Int32Array {
  const { density, entropy } = index;
  const matches = searched(index, name, choice, notes, said);
  const dense = DENSITIES[choice.density];
  const mixed = ENTROPIES[choice.entropy];
  const kept: number[] = [];
  for (let i = 0; i < density.length; i++) {
    const often = density[i] ?? 0;
    if (matches && !matches[i]) continue;
    if (choice.alive === "alive" ? !often : choice.alive === "never" && often) continue;
    if (dense && !(often >= dense[1] && often < dense[2])) continue;
    if (mixed && !((entropy[i] ?? -2) >= mixed[1] && (entropy[i] ?? -2) < mixed[2])) continue;
    if (choice.kind && !ofKind(index, name, choice.kind, notes, i)) continue;
    kept.push(i);
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
