// What no number counts (position 0, long activations, special tokens), counted in where one asks for it.
import { many, whole } from "./format";
import { Options, Switch } from "./parts";
import { store } from "./store";
import type { Feature, LeftOut, Member, Reason, Window } from "./types";

const REASONS: [Reason, string][] = [["first", "position 0"], ["long", "long activations"], ["special", "special tokens"]];
/** What is counted in: kept while one walks from feature to feature. */
export const countedIn = store<Reason[]>([]);

/** The numbers of a feature that follow the switch. */
export interface In {
  firings: number;
  density: number | null;
  max: number | null;
  mean: number | null;
  top: Window[];
  counts: number[]; // of what is counted in, by the histogram's bins and above the last
  tokens: number; // that the share is of
  words: string; // empty: nothing is counted in
}

const size = (w: Window) => Math.abs(w.v.find(([at]) => at === w.c)?.[1] ?? 0);

export function counted({ tokens }: Member, feature: Feature, reasons: Reason[]): In {
  const { firings, density, max, mean, groups, left_out = {} } = feature;
  const top = groups.top ?? [];
  const asked = REASONS.filter(([reason]) => reasons.includes(reason) && tokens?.left_out?.[reason]);
  const words = asked.map(([reason, name]) => `${name} (${many(left_out[reason]?.firings ?? 0, "firing")})`).join(", ");
  const all = asked.map(([reason]) => left_out[reason]).filter((out): out is LeftOut => !!out);
  const sum = (of: (out: LeftOut) => number) => all.reduce((total, out) => total + of(out), 0);
  const total = asked.reduce((n, [reason]) => n + tokens!.left_out![reason], tokens?.counted ?? 0);
  const n = firings + sum((out) => out.firings);
  if (!all.length) return { firings, density: words ? firings / total : density, max, mean, top, counts: [], tokens: total, words };
  return {
    firings: n,
    density: n / total,
    max: all.reduce((most, out) => Math.max(most, out.max), max ?? 0),
    mean: ((mean ?? 0) * firings + sum((out) => out.mass)) / n,
    top: [...top, ...all.flatMap((out) => out.windows)].sort((a, b) => size(b) - size(a)),
    counts: all[0].counts.map((_, bin) => sum((out) => out.counts[bin])),
    tokens: total,
    words,
  };
}

export function CountIn({ member, words }: { member: Member; words: string }) {
  const reasons = countedIn.use();
  const there = REASONS.filter(([reason]) => member.tokens?.left_out?.[reason]);
  if (!there.length) return null;
  return (
    <>
      <Options>
        <Switch label="count in" value={reasons} options={there.map(([reason, name]) => [reason, `${name} · ${whole(member.tokens!.left_out![reason])}`])}
          set={(reason) => countedIn.set(reasons.includes(reason) ? reasons.filter((one) => one !== reason) : [...reasons, reason])} />
      </Options>
      {words && <p class="behind" role="status">Counted in: {words}. Firings, share, largest, mean, histogram and the top examples (three of each kind) follow; no other number does, here or in the list.</p>}
    </>
  );
}
