// Numbers for people. A dash stands where a number is not known.

export const DASH = "–";
const known = (x: number | null | undefined): x is number => x !== null && x !== undefined && Number.isFinite(x);

/** Three significant digits, without powers of ten where they can be avoided. */
export function short(x: number | null | undefined, digits = 3): string {
  if (!known(x)) return DASH;
  if (x === 0) return "0";
  const size = Math.abs(x);
  if (size >= 1e6) return `${trim((x / 1e6).toPrecision(digits))}M`;
  if (size >= 1e4) return whole(x);
  if (size < 1e-4) return x.toExponential(digits - 1).replace("e-", "e−");
  return minus(trim(Number(x.toPrecision(digits)).toString()));
}

export const whole = (x: number | null | undefined) => (known(x) ? minus(Math.round(x).toLocaleString("en-GB")) : DASH);

export const fixed = (x: number | null | undefined, digits = 2) => (known(x) ? minus(x.toFixed(digits)) : DASH);

export const signed = (x: number | null | undefined, digits = 2) => (known(x) ? (x > 0 ? "+" : "") + fixed(x, digits) : DASH);

/** A share as per cent: 12 %, 1.3 %, 0.021 %. */
export function percent(x: number | null | undefined): string {
  if (!known(x)) return DASH;
  const hundred = x * 100;
  if (hundred === 0) return "0 %";
  if (hundred >= 99.95) return `${whole(hundred)} %`;
  if (hundred < 0.001) return "<0.001 %";
  const digits = hundred >= 10 ? 0 : hundred >= 1 ? 1 : hundred >= 0.1 ? 2 : 3;
  return `${hundred.toFixed(digits)} %`;
}

export function many(n: number, one: string, more = `${one}s`): string {
  return `${whole(n)} ${n === 1 ? one : more}`;
}

export const within = (x: number, low: number, high: number) => Math.max(low, Math.min(high, x));

const trim = (text: string) => (text.includes(".") ? text.replace(/\.?0+$/, "") : text);
const minus = (text: string) => text.replace(/^-/, "−");
