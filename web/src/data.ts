// Data arrives by classic scripts, the one thing that a page opened from a folder may load. Each calls UNMIX.put(key, value).
import { useEffect, useState } from "preact/hooks";
import { type Bytes, idsOf, sequencesOf } from "./planes";
import type { Band, Feature, Index, Manifest, Member, Sequence, Vocabulary, Window } from "./types";

interface Waiting {
  promise: Promise<unknown>;
  resolve: (value: unknown) => void;
  reject: (error: Error) => void;
  done?: { value: unknown } | { error: Error };
}

declare global {
  interface Window {
    UNMIX: { put(key: string, value: unknown): void };
  }
}

const held = new Map<string, Waiting>();
const arrived = new Set<string>(); // keys that put was called with, unpacked or not yet
const KEPT = 24; // pages of features or sequences kept unpacked, the latest used

function slot(key: string): Waiting {
  let waiting = held.get(key);
  if (!waiting) {
    let resolve!: (value: unknown) => void;
    let reject!: (error: Error) => void;
    const promise = new Promise<unknown>((yes, no) => ((resolve = yes), (reject = no)));
    waiting = { promise, resolve, reject };
    promise.then(
      (value) => (waiting!.done = { value }),
      (error: Error) => (waiting!.done = { error }),
    );
    held.set(key, waiting);
  }
  return waiting;
}

window.UNMIX = {
  put(key, value) {
    arrived.add(key);
    const waiting = slot(key);
    if (typeof value !== "string") return waiting.resolve(value);
    read(key, value).then(waiting.resolve, waiting.reject);
  },
};

/** base64 of raw deflate, of UTF-8 JSON or of bytes. */
const inflate = (packed: string) => new Response(new Blob([fromBase64(packed)]).stream().pipeThrough(new DecompressionStream("deflate-raw")));

function fromBase64(packed: string): Bytes {
  const { fromBase64: native } = Uint8Array as unknown as { fromBase64?: (text: string) => Bytes };
  return native?.(packed) ?? Uint8Array.from(atob(packed), (one) => one.charCodeAt(0));
}

const missing = (key: string) => new Error(`${key}.js could not be read. Is it in the site's folder?`);

/** What UNMIX.put was given under this key; `ask` adds the script that calls it. */
export function load<T>(key: string, ask = true): Promise<T> {
  const known = held.has(key);
  const waiting = slot(key);
  if (known) {
    held.delete(key); // put last: the first are let go of
    held.set(key, waiting);
  } else if (ask) {
    const script = document.createElement("script");
    script.src = key.split("/").map(encodeURIComponent).join("/") + ".js";
    script.onload = () => {
      script.remove();
      if (!arrived.has(key)) waiting.reject(broken(key));
    };
    script.onerror = () => {
      script.remove();
      held.delete(key); // so that it can be asked for again
      waiting.reject(missing(key));
    };
    document.head.append(script);
    forget();
  }
  return waiting.promise as Promise<T>;
}

function forget(): void {
  const pages = [...held.keys()].filter((key) => /\/[ft]\/\d+$/.test(key));
  for (const key of pages.slice(0, Math.max(0, pages.length - KEPT))) held.delete(key);
}

/** What is here already, without asking for it. */
export function peek<T>(key: string): T | undefined {
  const done = held.get(key)?.done;
  return done && "value" in done ? (done.value as T) : undefined;
}

export interface Loaded<T> {
  value?: T;
  error?: Error;
}

/** Draws again when the data is there. A key of null asks for nothing. */
export function useData<T>(key: string | null): Loaded<T> {
  const [seen, setSeen] = useState<{ key: string | null; loaded: Loaded<T> }>({ key: null, loaded: {} });
  useEffect(() => {
    if (key === null || seen.key === key) return;
    let mine = true;
    load<T>(key).then(
      (value) => mine && setSeen({ key, loaded: { value } }),
      (error: Error) => mine && setSeen({ key, loaded: { error } }),
    );
    return () => void (mine = false);
  }, [key]);
  if (key === null) return {};
  if (seen.key === key) return seen.loaded;
  return (held.get(key)?.done ?? {}) as Loaded<T>; // unpacked before: no blank between
}

export const useIndex = (one: Member): Loaded<Index> => useData<Index>(indexKey(one));

let manifest_: Manifest;
let vocabulary_: Vocabulary = { special: {}, bytes: {} };

/** Waits for manifest.js and vocabulary.js, which index.html names itself. */
export async function begin(): Promise<void> {
  const late = new Promise<never>((_, no) =>
    addEventListener("load", () =>
      setTimeout(() => {
        for (const key of ["manifest", "vocabulary"])
          if (!arrived.has(key)) no(missing(key));
      }),
    ),
  );
  [manifest_, vocabulary_] = await Promise.race([
    Promise.all([load<Manifest>("manifest", false), load<Vocabulary>("vocabulary", false)]),
    late,
  ]);
}

export const manifest = (): Manifest => manifest_;
export const vocabulary = (): Vocabulary => vocabulary_;
export const member = (name: string): Member | undefined => manifest_.members.find((one) => one.name === name);

const number5 = (page: number) => String(page).padStart(5, "0");
export const indexKey = (one: Member) => `${one.name}/index`;
const pageKey = (one: Member, kind: string, at: number, each: number) => `${one.name}/${kind}/${number5(Math.floor(at / each))}`;
export const featureKey = (one: Member, i: number) => pageKey(one, "f", i, one.shards.features);
export const saidKey = (one: Member) => (one.described ? `${one.name}/descriptions` : null);
export const promptsKey = (one: Member) => (manifest_.prompts ? `${one.name}/prompts` : null);

export const loadIndex = (one: Member) => load<Index>(indexKey(one));

export async function loadFeature(one: Member, i: number): Promise<Feature | undefined> {
  return filled(await load<Feature[]>(featureKey(one, i)), i);
}

/** Where sequence s is: the index lists the sequences in the order of their pages. */
export function sequenceKey(one: Member, index: Index | undefined, s: number): string | null {
  const listed = index?.sequence_ids;
  const at = listed ? listed.indexOf(s) : s;
  if (at < 0 || at >= one.sequences) return null;
  return pageKey(one, "t", at, one.shards.sequences);
}

/** Whether the site holds sequence s token by token. */
export const kept = (name: string, s: number): boolean => {
  const one = member(name);
  return !!one && sequenceKey(one, peek<Index>(indexKey(one)), s) !== null;
};

export const sequenceIds = (one: Member, index: Index | undefined): number[] =>
  index?.sequence_ids ?? Array.from({ length: one.sequences }, (_, s) => s);

export async function loadSequence(one: Member, index: Index | undefined, s: number): Promise<Sequence | undefined> {
  const key = sequenceKey(one, index, s);
  return key === null ? undefined : (await load<Sequence[]>(key)).find((sequence) => sequence.s === s);
}

/** The ids of all tokens, page after page: the text of every example, and of every sequence. */
async function ids(): Promise<Uint32Array> {
  const { sequences, context, page = 1 } = manifest_.tokens;
  const all = new Uint32Array(sequences * context);
  const keys = Array.from({ length: Math.ceil(all.length / page) }, (_, n) => `text/${number5(n)}`);
  (await Promise.all(keys.map((key) => load<Uint32Array>(key)))).forEach((part, n) => all.set(part, n * page));
  return (allIds = all);
}
let allIds: Uint32Array | undefined;
let asked: Promise<Uint32Array> | undefined;
const text = () => (asked ??= ids().catch((error) => ((asked = undefined), Promise.reject(error))));

/** Windows say where they stand; here those of a feature, out of a page that was read, get the ids that stand there. */
export function filled(page: Feature[] | undefined, i: number): Feature | undefined {
  const found = page?.find((feature) => feature.i === i);
  if (found)
    for (const w of [...Object.values(found.groups), ...Object.values(found.left_out ?? {}).map((out) => out.windows)].flatMap((group) => group.flatMap((one: Window | Band) => ("windows" in one ? one.windows : one)))) {
      const first = w.s * manifest_.tokens.context + w.p;
      w.ids ??= [...allIds!.subarray(first, first + w.n!)];
    }
  return found;
}

const broken = (key: string) => new Error(`${key}.js is damaged: build the site again.`);

async function read(key: string, packed: string): Promise<unknown> {
  const [, name, kind, number] = /^(?:(.+)\/)?(f|t|text)\/(\d+)$/.exec(key) ?? [];
  const no = () => Promise.reject(broken(key));
  const flat = Promise.resolve(packed).then(inflate);
  if (kind !== "t" && kind !== "text") {
    const value = await flat.then((response) => response.text()).then(JSON.parse).catch(no);
    if (kind) await text();
    return value;
  }
  const data = await flat.then((response) => response.arrayBuffer()).then((buffer) => new Uint8Array(buffer)).catch(no);
  if (kind === "text") return idsOf(data);
  const one = member(name)!, { context } = manifest_.tokens;
  const [index, all] = await Promise.all([loadIndex(one), text()]);
  const listed = sequenceIds(one, index).slice(Number(number) * one.shards.sequences);
  return sequencesOf(data, context).map((found, n) => ({ ...found, s: listed[n], ids: [...all.subarray(listed[n] * context, (listed[n] + 1) * context)] }));
}
