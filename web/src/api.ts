// What the server answers. The token comes in the address that `unmix explore` prints, and stays in this tab.
import { learn } from "./text";
import type { Pair, Window } from "./types";

const KEPT = "unmix/token";

/** Takes #token=… out of the address. */
export function takeToken(): void {
  const found = /^#token=([\w.~-]+)/.exec(location.hash);
  if (!found) return;
  sessionStorage.setItem(KEPT, found[1]);
  history.replaceState(null, "", "#/");
  dispatchEvent(new HashChangeEvent("hashchange"));
}

/** The answer: lines of JSON, mostly one. The keys of each are new or replace those before; `heard` is told each time. */
async function post<T extends object>(path: string, body: object, heard?: (said: T) => void): Promise<T> {
  let said = {} as T & { error?: string }, refused = 0;
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Unmix-Token": sessionStorage.getItem(KEPT) ?? "" },
      body: JSON.stringify(body),
    });
    if (!answer.ok) refused = answer.status;
    const reader = answer.body!.pipeThrough(new TextDecoderStream()).getReader();
    for (let left = "", done = false; !done; ) {
      const part = await reader.read();
      done = part.done;
      const lines = (left + (part.value ?? "\n")).split("\n");
      left = lines.pop()!;
      for (const line of lines.filter(Boolean)) {
        said = { ...said, ...JSON.parse(line) };
        if (!refused && !said.error) heard?.(said);
      }
    }
  } catch {
    throw new Error("The server does not answer. Is `unmix explore` still running?");
  }
  if (refused || said.error) throw new Error(said.error ?? `The server answered ${refused}.`);
  return said;
}

export interface PromptToken {
  id: number;
  bytes: string;
  norm: number | null;
  err: number | null;
  masked: boolean;
  f: Pair[];
  more?: number;
}
export interface Prompted {
  tokens: PromptToken[];
  truncated: boolean;
}

export async function prompt(member: string, text: string): Promise<Prompted> {
  const said = await post<Prompted>("/api/prompt", { member, text });
  learn(said.tokens);
  return said;
}

export interface Change {
  feature: number;
  kind: "ablate" | "clamp" | "add";
  strength: number; // in units of the feature's maximum
}
export type Next = [number, string, number]; // id, bytes, probability
export interface Intervened {
  cut?: boolean; // fewer tokens written than asked for: the model takes no more
  kl: (number | null)[];
  delta_logp: (number | null)[];
  next: { plain: Next[]; changed: Next[] };
  generated: { plain: { id: number; bytes: string }[]; changed: { id: number; bytes: string }[] };
}
export interface Ask {
  member: string;
  text: string;
  changes: Change[];
  where: "all" | number;
  generate: number;
  seed: number;
  temperature: number;
}

/** `heard` is told at once what is predicted, then with every token that is written. */
export async function intervene(ask: Ask, heard: (said: Intervened) => void): Promise<void> {
  await post<Intervened>("/api/intervene", { ...ask, stream: true }, (said) => {
    for (const side of ["plain", "changed"] as const) {
      learn(said.generated[side]);
      learn(said.next[side].map(([id, bytes]) => ({ id, bytes })));
    }
    heard(said);
  });
}

export async function moreExamples(member: string, feature: number, offset: number, order: string): Promise<Window[]> {
  const said = await post<{ windows: Window[] }>("/api/feature", { member, feature, offset, limit: 50, order });
  return said.windows;
}
