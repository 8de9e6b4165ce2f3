// Notes live in this browser, under the fingerprint of run, checkpoints and corpus; out and in as JSON.
import { manifest } from "./data";
import { store } from "./store";

export interface Note {
  text: string;
  star: boolean;
  at: string; // when it was last changed
}
export type Notes = Record<string, Note>; // "MEMBER/12"

export const notes = store<Notes>({});
export const trouble = store<string>("");

const key = () => `unmix/notes/${manifest().fingerprint}`;

function readAll(): Notes {
  const text = localStorage.getItem(key());
  const found: unknown = text === null ? {} : JSON.parse(text);
  return (found && typeof found === "object" ? found : {}) as Notes;
}

export function beginNotes(): void {
  attempt(() => notes.set(readAll()));
  addEventListener("storage", (event) => event.key === key() && attempt(() => notes.set(readAll())));
}

function attempt(act: () => void): void {
  try {
    act();
    trouble.set("");
  } catch {
    trouble.set("This browser does not keep notes. Export them before you close the page.");
  }
}

/** Reads before it writes: another tab may have added notes meanwhile. */
function change(edit: (all: Notes) => void): void {
  let all: Notes = { ...notes.get() };
  attempt(() => (all = readAll()));
  edit(all);
  notes.set(all);
  attempt(() => localStorage.setItem(key(), JSON.stringify(all)));
}

export function write(name: string, i: number, part: Partial<Note>): void {
  change((all) => {
    const at = `${name}/${i}`;
    const before = all[at];
    const note = { text: part.text ?? before?.text ?? "", star: part.star ?? before?.star ?? false, at: new Date().toISOString() };
    if (note.text || note.star) all[at] = note;
    else delete all[at];
  });
}

export function exported(): string {
  const { run, fingerprint } = manifest();
  return JSON.stringify({ format: "unmix notes 1", run, fingerprint, notes: notes.get() }, null, 1) + "\n";
}

export interface Import {
  run: string;
  same: boolean; // of this very run
  notes: Notes;
}

/** Reads an exported file; an Error in words if it is none. */
export function parse(text: string): Import {
  let found: { format?: unknown; run?: unknown; fingerprint?: unknown; notes?: unknown } | null;
  try {
    found = JSON.parse(text);
  } catch {
    throw new Error("This file is not JSON, so it holds no notes of unmix.");
  }
  if (found?.format !== "unmix notes 1" || typeof found.notes !== "object" || !found.notes)
    throw new Error("This file holds no notes of unmix: its format is not “unmix notes 1”.");
  const read: Notes = {};
  for (const [at, note] of Object.entries(found.notes as Record<string, Partial<Note>>))
    if (/^.+\/\d+$/.test(at) && typeof note?.text === "string")
      read[at] = { text: note.text, star: note.star === true, at: String(note.at ?? "") };
  return { run: String(found.run ?? ""), same: found.fingerprint === manifest().fingerprint, notes: read };
}

/** Adds what is not there yet. Where both have a text, both are kept. Answers how many notes changed. */
export function merge(read: Notes): number {
  let changed = 0;
  change((all) => {
    for (const [at, note] of Object.entries(read)) {
      const mine = all[at];
      const text = !mine || note.text.includes(mine.text) ? note.text : mine.text.includes(note.text) ? mine.text : `${mine.text}\n\n${note.text}`;
      const star = note.star || !!mine?.star;
      if (mine && mine.text === text && mine.star === star) continue;
      all[at] = { text, star, at: note.at };
      changed++;
    }
  });
  return changed;
}
