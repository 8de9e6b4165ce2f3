// Examples as concordance lines: one line a row, the peaks in a column, so that the eye compares what is around them.
import { useMemo, useRef, useState } from "preact/hooks";
import { kept } from "./data";
import { percent, short, within } from "./format";
import { modified } from "./keys";
import { Parts, Token, Unseen } from "./parts";
import { go, toToken } from "./route";
import { type Store, store } from "./store";
import { type Piece, blank, pieces } from "./text";
import type { Window } from "./types";

/** h1 to h9 for a share of the scale, b1 to b9 below zero: logarithmic, so that weak values still show. */
export function heat(share: number): string {
  const size = Math.min(1, Math.abs(share));
  if (!(size > 0)) return "";
  return (share > 0 ? "h" : "b") + Math.max(1, Math.round(9 * Math.log10(1 + 9 * size)));
}

/** The one farthest from zero. */
export const farthest = (values: number[]) => values.reduce((best, x) => (Math.abs(x) > Math.abs(best) ? x : best), 0);

/** The token that the pointer or the arrow keys are on. */
export interface Looked {
  member: string;
  s: number;
  position: number; // in the sequence
  ids: number[]; // several where they share a character
  parts: Piece["parts"];
  value: number | null;
  max: number | null;
  masked: boolean;
}
export const looked: Store<Looked | null> = store<Looked | null>(null);

interface Prepared {
  pieces: Piece[];
  values: number[]; // by piece, the largest of its tokens in size; 0 where silent
  masked: boolean[];
  peak: number;
}
const prepared = new WeakMap<Window, Prepared>();

export function prepare(w: Window): Prepared {
  let found = prepared.get(w);
  if (!found) {
    const value = new Map(w.v);
    const left = new Set(w.m ?? []);
    const all = pieces(w.ids);
    const range = (piece: Piece) => Array.from({ length: piece.to - piece.from + 1 }, (_, n) => piece.from + n);
    found = {
      pieces: all,
      values: all.map((piece) => farthest(range(piece).map((at) => value.get(at) ?? 0))),
      masked: all.map((piece) => range(piece).every((at) => left.has(at))),
      peak: Math.max(0, all.findIndex((piece) => piece.from <= w.c && w.c <= piece.to)),
    };
    prepared.set(w, found);
  }
  return found;
}

export function look(member: string, w: Window, at: number, max: number | null): Looked {
  const { pieces: all, values, masked } = prepare(w);
  const { from, to, parts } = all[at];
  const best = w.v.filter(([offset]) => offset >= from && offset <= to).sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]))[0];
  return {
    member, s: w.s, position: w.p + (best ? best[0] : from), ids: w.ids.slice(from, to + 1), parts,
    value: values[at] || null, max, masked: masked[at],
  };
}

/** Rows whose text, from 8 tokens before the peak to 2 behind it, stands in a row above them too. */
export function repeats(windows: Window[]): Set<Window> {
  const seen = new Set<string>();
  const has = (text: string) => seen.has(text) || !seen.add(text);
  return new Set(windows.filter(({ ids, c }) => has(ids.slice(Math.max(0, c - 8), c + 3).join())));
}

interface LineProps {
  w: Window;
  context: number;
  scale: number;
  chosen: number; // the piece that the arrows are on, or -1
}

function Line({ w, context, scale, chosen }: LineProps) {
  const { pieces: all, values, masked, peak } = prepare(w);
  const wrap = !Number.isFinite(context);
  const shown = (piece: Piece) => wrap || (piece.to >= w.c - context && piece.from <= w.c + context);
  const draw = (piece: Piece, at: number) => {
    const kind = [heat(values[at] / scale), at === peak ? "peak" : "", masked[at] ? "masked" : "", at === chosen ? "chosen" : ""];
    return (
      <span class={kind.filter(Boolean).join(" ") || undefined} data-at={at}>
        <Parts parts={piece.parts} spaces={blank(piece)} />
      </span>
    );
  };
  const drawn = all.map((piece, at) => (shown(piece) ? draw(piece, at) : null));
  const before = drawn.slice(0, peak), after = drawn.slice(peak);
  return wrap ? <span class="whole">{before}{after}</span> : (
    <>
      <span class="before"><span>{before}</span></span>
      <span class="after">{after}</span>
    </>
  );
}

interface RowsProps {
  member: string;
  windows: Window[];
  max: number | null; // the feature's largest value
  context: number;
  perRow: boolean;
  label: string;
  again?: Set<Window>;
}

export function Rows({ member, windows, max, context, perRow, label, again }: RowsProps) {
  const [on, setOn] = useState({ row: 0, at: -1 });
  const touch = useRef(false);
  const list = useRef<HTMLOListElement>(null);
  const row = Math.min(on.row, windows.length - 1);

  const found = (target: EventTarget | null): { row: number; at: number } | null => {
    const span = (target as Element).closest?.("[data-at]");
    const line = (target as Element).closest?.("li");
    return line ? { row: Number(line.dataset.row), at: span ? Number((span as HTMLElement).dataset.at) : -1 } : null;
  };
  const show = (place: { row: number; at: number }) => looked.set(look(member, windows[place.row], place.at, max));
  const open = (place: { row: number; at: number }) => {
    const { s, position } = look(member, windows[place.row], place.at, max);
    if (kept(member, s)) go(toToken(member, s, position));
  };
  const move = (to: number, at: number) => {
    const next = within(to, 0, windows.length - 1);
    const place = { row: next, at: within(at, 0, prepare(windows[next]).pieces.length - 1) };
    setOn(place);
    show(place);
    (list.current?.children[next] as HTMLElement | undefined)?.focus();
  };
  const key = (event: KeyboardEvent) => {
    const peak = prepare(windows[row]).peak;
    const at = on.at < 0 ? peak : on.at;
    const acts: Record<string, () => void> = {
      ArrowRight: () => move(row, on.at < 0 ? peak : at + 1),
      ArrowLeft: () => move(row, on.at < 0 ? peak : at - 1),
      ArrowDown: () => move(row + 1, prepare(windows[Math.min(row + 1, windows.length - 1)]).peak),
      ArrowUp: () => move(row - 1, prepare(windows[Math.max(row - 1, 0)]).peak),
      Enter: () => open({ row, at }),
    };
    if (!acts[event.key] || modified(event)) return;
    event.preventDefault();
    acts[event.key]();
  };
  const press = (event: Event) => {
    const place = found(event.target);
    if (!place || place.at < 0 || getSelection()?.toString()) return;
    const again = place.row === on.row && place.at === on.at;
    setOn(place);
    show(place);
    if (!touch.current || again) open(place); // the first tap looks, the second opens
  };
  return (
    <ol
      class={Number.isFinite(context) ? "rows" : "rows wrap"}
      aria-label={label}
      ref={list}
      onKeyDown={key}
      onPointerDown={(event) => void (touch.current = event.pointerType !== "mouse")}
      onPointerOver={(event) => {
        const place = found(event.target);
        if (place && place.at >= 0 && event.pointerType === "mouse") show(place);
      }}
      onClick={press}
    >
      {windows.map((w, n) => <Row key={n} {...{ w, n, context, max, perRow }} again={!!again?.has(w)} current={n === row} chosen={n === on.row ? on.at : -1} />)}
    </ol>
  );
}

function Row({ w, n, context, max, perRow, again, current, chosen }: {
  w: Window; n: number; context: number; max: number | null; perRow: boolean; again: boolean; current: boolean; chosen: number;
}) {
  const { values, peak } = prepare(w);
  const own = Math.abs(farthest(values));
  const scale = (perRow ? own : max) || own || 1;
  const line = useMemo(() => <Line w={w} context={context} scale={scale} chosen={chosen} />, [w, context, scale, chosen]);
  return (
    <li data-row={n} class={again ? "again" : undefined} tabIndex={current ? 0 : -1}>
      <span class="line" dir="auto">{line}</span>
      <span class="value">{values[peak] ? short(values[peak]) : <Unseen>silent</Unseen>}{again && <Unseen> again</Unseen>}</span>
    </li>
  );
}

/** The line below the examples: what the token is that one is on. */
export function Inspector() {
  const at = looked.use();
  if (!at)
    return <p class="inspector quiet">Point at a token, or walk with the arrow keys; open it for all its features.</p>;
  return (
    <p class="inspector" role="status">
      <span class="what">{at.ids.map((id) => <Token id={id} />)}</span>
      
      <span class="what">
        {at.masked ? <>{at.value === null ? "" : <b>{short(at.value)}</b>} left out of the numbers</> : at.value === null ? "silent" : (
          <><b>{short(at.value)}</b>{at.max ? ` · ${percent(at.value / at.max)} of the largest` : ""}</>
        )}
      </span>
      {at.ids.length > 1 && <span class="what">{at.ids.length} tokens in one character</span>}
      <span class="what">position {at.position} of sequence {at.s}</span>
      {kept(at.member, at.s) ? <a href={toToken(at.member, at.s, at.position)}>all features of this token</a> : <span>this text is not kept token by token</span>}
    </p>
  );
}
