// Pages of bytes: whole numbers as planes, all their lowest bytes, then all their second ones. docs/formats.md has the layout.
import type { Pair, Sequence } from "./types";

export type Bytes = Uint8Array<ArrayBuffer>;

function plane(data: Bytes, at: number, count: number, width: number): Uint32Array {
  const found = new Uint32Array(count);
  for (let k = 0; k < width; k++) for (let n = 0, from = at + k * count; n < count; n++) found[n] |= data[from + n] << (8 * k);
  return found;
}

export const idsOf = (data: Bytes) => plane(data, 0, data.length / 3, 3);

/** The upper three bytes of a float32, as the number; null where it is none. */
const reals = (words: Uint32Array) => new Float32Array(words.map((word) => word << 8).buffer);
const orNull = (x: number) => (Number.isFinite(x) ? x : null);

/** A page of sequences of T tokens, but for their ids; the features of each token come the largest first. */
export function sequencesOf(data: Bytes, T: number): Omit<Sequence, "s" | "ids">[] {
  const [n, m] = new Uint32Array(data.buffer, 0, 2);
  let at = 8;
  const next = (count: number, width: number) => {
    const found = plane(data, at, count, width);
    at += count * width;
    return found;
  };
  const entries = next(n, 1), more = next(n, 3), masked = next(n, 1), norm = reals(next(n, 3)), err = reals(next(n, 3)), step = next(m, 3), value = reals(next(m, 3));
  const found: Omit<Sequence, "s" | "ids">[] = [];
  for (let first = 0, k = 0; first < n; first += T) {
    const f: Pair[][] = [], places: number[] = [];
    for (let t = first; t < first + T; t++) {
      const pairs: Pair[] = [];
      for (let i = 0, end = k + entries[t]; k < end; k++) pairs.push([(i += step[k]), value[k]]);
      f.push(pairs.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])));
      if (masked[t]) places.push(t - first);
    }
    const part = <A>(all: ArrayLike<number>, of: (x: number) => A) => Array.from({ length: T }, (_, t) => of(all[first + t]));
    found.push({ norm: part(norm, orNull), err: part(err, orNull), m: places, f, more: part(more, Number) });
  }
  return found;
}
