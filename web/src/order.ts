// The list's choices, one set a member, and the order that follows: j and k walk in it, on the page of a feature too.
import { FIRST, type Choice, ordered } from "./filter";
import { notes } from "./notes";
import { store } from "./store";
import { member, peek, saidKey } from "./data";
import type { Descriptions, Index } from "./types";

export const choices = store<Record<string, Choice>>({});

export const choiceOf = (name: string): Choice => choices.get()[name] ?? FIRST;

export function choose(name: string, part: Partial<Choice>): void {
  choices.set({ ...choices.get(), [name]: { ...choiceOf(name), ...part } });
}

/** Where each member's list was left: a place in its order. */
export const places = new Map<string, number>();

let last: { name: string; index: Index; choice: Choice; notes: unknown; said: unknown; order: Int32Array } | undefined;

export function orderOf(name: string, index: Index): Int32Array {
  const choice = choiceOf(name);
  const personal = choice.kind === "5" || choice.where === "note" || (choice.where === "all" && choice.query !== "");
  const mine = personal ? notes.get() : null;
  const said = peek<Descriptions>(saidKey(member(name)!) ?? "");
  if (last?.name !== name || last.index !== index || last.choice !== choice || last.notes !== mine || last.said !== said)
    last = { name, index, choice, notes: mine, said, order: ordered(index, name, choice, notes.get(), said) };
  return last.order;
}

/** The feature `by` places further in the list; from one that is not in it, the next by index. Null at the ends. */
export function beside(order: Int32Array, i: number, by: 1 | -1): number | null {
  const at = order.indexOf(i);
  if (at >= 0) return order[at + by] ?? null;
  let next: number | null = null;
  for (const other of order) if ((other - i) * by > 0 && (next === null || (other - next) * by < 0)) next = other;
  return next;
}

export function random(order: Int32Array, index: Index): number | null {
  const alive = order.filter((i) => index.density[i]);
  const among = alive.length ? alive : order;
  return among.length ? among[Math.floor(Math.random() * among.length)] : null;
}
