// Data arrives by classic scripts, the one thing that a page opened from a folder may load. Each calls UNMIX.put(key, value).
import { useEffect, useState } from "preact/hooks";
import type { Feature, Index, Manifest, Member, Sequence, Vocabulary } from "./types";

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
    unpack(value).then(waiting.resolve, () => waiting.reject(new Error(`${key}.js is damaged: build the site again.`)));
  },
};

/** base64 of raw deflate of UTF-8 JSON. */
async function unpack(packed: string): Promise<unknown> {
  const flat = new Blob([fromBase64(packed)]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
  return JSON.parse(await new Response(flat).text());
}

function fromBase64(packed: string): Uint8Array<ArrayBuffer> {
  const native = (Uint8Array as unknown as { fromBase64?: (text: string) => Uint8Array<ArrayBuffer> }).fromBase64;
  if (native) return native(packed);
  const text = atob(packed);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

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
      if (!arrived.has(key)) waiting.reject(new Error(`${key}.js holds no data: build the site again.`));
    };
    script.onerror = () => {
      script.remove();
      held.delete(key); // so that it can be asked for again
      waiting.reject(new Error(`${key}.js could not be read. Is it in the site's folder?`));
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

let manifest_: Manifest;
let vocabulary_: Vocabulary = { special: {}, bytes: {} };

/** Waits for manifest.js and vocabulary.js, which index.html names itself. */
export async function begin(): Promise<void> {
  const late = new Promise<never>((_, no) =>
    addEventListener("load", () =>
      setTimeout(() => {
        for (const key of ["manifest", "vocabulary"])
          if (!arrived.has(key)) no(new Error(`${key}.js could not be read. Is it in the site's folder?`));
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
export const featureKey = (one: Member, i: number) => `${one.name}/f/${number5(Math.floor(i / one.shards.features))}`;

export const loadIndex = (one: Member) => load<Index>(indexKey(one));

export async function loadFeature(one: Member, i: number): Promise<Feature | undefined> {
  return (await load<Feature[]>(featureKey(one, i))).find((feature) => feature.i === i);
}

/** Where sequence s is: the index lists the sequences in the order of their pages. */
export function sequenceKey(one: Member, index: Index | undefined, s: number): string | null {
  const listed = index?.sequence_ids;
  const at = listed ? listed.indexOf(s) : s;
  if (at < 0 || at >= one.sequences) return null;
  return `${one.name}/t/${number5(Math.floor(at / one.shards.sequences))}`;
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
