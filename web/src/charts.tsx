// Charts as small SVG functions. Each has words for those who do not see it.
import type { ComponentChildren } from "preact";
import { short, within } from "./format";

const LEFT = 48, RIGHT = 14, TOP = 12, BOTTOM = 38;

export interface Axis {
  low: number;
  high: number;
  log?: boolean;
  name: string;
  text?: (x: number) => string;
}

/** Round numbers between low and high: 1, 2, 5 × a power of ten, or the powers themselves on a logarithmic axis. */
export function ticks({ low, high, log }: Axis): number[] {
  if (log) {
    const found: number[] = [];
    const steps = Math.log10(high / low) > 2.2 ? [1] : [1, 2, 5];
    for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
      for (const step of steps) {
        const at = step * 10 ** power;
        if (at >= low * 0.999 && at <= high * 1.001) found.push(at);
      }
    if (found.length > 1) return found;
  }
  const raw = (high - low) / 4 || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * ([1, 2, 5, 10].find((s) => s * power >= raw * 0.999) ?? 10);
  const found: number[] = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9; n++) found.push(Number((n * step).toPrecision(12)));
  return found;
}

function place(axis: Axis, from: number, to: number): (x: number) => number {
  const f = axis.log ? Math.log : (x: number) => x;
  const span = f(axis.high) - f(axis.low) || 1;
  return (x) => from + ((f(x) - f(axis.low)) / span) * (to - from);
}

function Tick({ x, y, anchor = "middle", children }: { x: number; y: number; anchor?: Label["anchor"]; children: ComponentChildren }) {
  return <text class="tick" x={x} y={y} text-anchor={anchor}>{children}</text>;
}

export function Frame({ x, y, words, width = 420, height = 270, children }: {
  x: Axis;
  y: Axis;
  words: string;
  width?: number;
  height?: number;
  children: (px: (x: number) => number, py: (y: number) => number) => ComponentChildren;
}) {
  const px = place(x, LEFT, width - RIGHT);
  const py = place(y, height - BOTTOM, TOP);
  const base = height - BOTTOM;
  return (
    <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={words} class="chart">
      {ticks(y).map((at) => (
        <g>
          <line class="grid" x1={LEFT} x2={width - RIGHT} y1={py(at)} y2={py(at)} />
          <Tick x={LEFT - 7} y={py(at) + 4} anchor="end">{(y.text ?? short)(at)}</Tick>
        </g>
      ))}
      <line class="axis" x1={LEFT} x2={width - RIGHT} y1={base} y2={base} />
      {ticks(x).map((at) => (
        <g>
          <line class="axis" x1={px(at)} x2={px(at)} y1={base} y2={base + 4} />
          <Tick x={px(at)} y={base + 16}>{(x.text ?? short)(at)}</Tick>
        </g>
      ))}
      <text class="axis-name" x={width - RIGHT} y={height - 4} text-anchor="end">{x.name}</text>
      {children(px, py)}
    </svg>
  );
}

export interface Dot {
  name: string;
  x: number;
  y: number;
  error?: number | null;
  family?: string; // a line goes through those of one family
  mark: boolean;
  strong: boolean;
}

/** Dots with their names beside them, where there is room. */
export function Scatter({ x, y, dots, words }: { x: Axis; y: Axis; dots: Dot[]; words: string }) {
  return (
    <Frame x={x} y={y} words={words}>
      {(px, py) => {
        const names = beside(dots, px, py);
        const through = (family: string | undefined) =>
          dots.filter((dot) => dot.family === family).sort((a, b) => a.x - b.x).map((dot) => `${px(dot.x)},${py(dot.y)}`).join(" ");
        return (
          <>
            {[...new Set(dots.map((dot) => dot.family))].map((family) => <polyline class="through" points={through(family)} />)}
            {dots.map((dot, n) => (
              <g class={dot.strong ? "strong" : ""}>
                {dot.error ? <line class="error" x1={px(dot.x)} x2={px(dot.x)} y1={py(dot.y - dot.error)} y2={py(dot.y + dot.error)} /> : null}
                <circle class={dot.mark ? "dot chosen" : "dot"} cx={px(dot.x)} cy={py(dot.y)} r={dot.strong ? 6 : 4.5}><title>{dot.name}</title></circle>
                {names[n] && <text class="name" x={names[n]!.x} y={names[n]!.y} text-anchor={names[n]!.anchor}>{dot.name}</text>}
              </g>
            ))}
          </>
        );
      }}
    </Frame>
  );
}

interface Label {
  x: number;
  y: number;
  anchor: "start" | "end" | "middle";
}
interface Box {
  x: number;
  y: number;
  w: number;
  h: number;
}

function beside(dots: Dot[], px: (x: number) => number, py: (y: number) => number): (Label | null)[] {
  const taken: Box[] = dots.map((dot) => ({ x: px(dot.x) - 5, y: py(dot.y) - 5, w: 10, h: 10 }));
  return dots.map((dot) => {
    const w = dot.name.length * 6.6;
    const tries: [number, number, Label["anchor"], number][] = [[9, 4, "start", 0], [-9, 4, "end", w], [0, -10, "middle", w / 2], [0, 19, "middle", w / 2]];
    for (const [right, down, anchor, before] of tries) {
      const label = { x: px(dot.x) + right, y: py(dot.y) + down, anchor };
      const box = { x: label.x - before, y: label.y - 10, w, h: 12 };
      const inside = box.x >= LEFT && box.x + box.w <= 420 && box.y >= 0 && box.y + box.h <= 270 - BOTTOM;
      if (inside && !taken.some((other) => meet(box, other))) {
        taken.push(box);
        return label;
      }
    }
    return null;
  });
}

const meet = (a: Box, b: Box) => a.x < b.x + b.w && b.x < a.x + a.w && a.y < b.y + b.h && b.y < a.y + a.h;

export interface Line {
  name: string;
  xy: [number, number][];
  strong: boolean;
}

/** Lines over one another: quiet ones thin, the strong ones thick and dashed apart, each named where it is highest. */
export function Lines({ x, y, lines, words, names = true }: { x: Axis; y: Axis; lines: Line[]; words: string; names?: boolean }) {
  return (
    <Frame x={x} y={y} words={words}>
      {(px, py) => {
        const tops = lines.map((line) => line.xy.reduce((best, point) => (point[1] > best[1] ? point : best), line.xy[0] ?? [x.low, y.low]));
        const labels = names ? beside(lines.map((line, n) => ({ name: line.name, x: tops[n][0], y: tops[n][1], mark: false, strong: line.strong })), px, py) : [];
        return lines.map((line, n) => (
          <g class={line.strong ? "strong" : ""}>
            <polyline class={`line dash${n % 4}`} points={line.xy.map(([a, b]) => `${px(a)},${py(b)}`).join(" ")}><title>{line.name}</title></polyline>
            {labels[n] && <text class="name" x={labels[n]!.x} y={labels[n]!.y - 2} text-anchor={labels[n]!.anchor}>{line.name}</text>}
          </g>
        ));
      }}
    </Frame>
  );
}

/** A histogram with a logarithmic height; bands behind it, a mark above where something lies. */
export function Histogram({ edges: own, counts, more, bands, mark, words }: {
  edges: number[];
  counts: number[];
  more: number[]; // further ones on top, and one more column behind
  bands: { low: number; high: number; share: string }[];
  mark: number | null;
  words: string;
}) {
  const width = 340, height = 150, left = 4, right = 4, top = 22, base = height - 22;
  const low = Math.min(0, own[0]), last = own[own.length - 1];
  const edges = more.length ? [...own, last * 1.05] : own, high = edges[edges.length - 1];
  const all = edges.slice(1).map((_, n) => (counts[n] ?? 0) + (more[n] ?? 0));
  const px = place({ low, high, name: "" }, left, width - right);
  const most = Math.log1p(Math.max(...all, 1));
  return (
    <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={words} class="chart histogram">
      {bands.map((band, n) => (
        <g>
          <rect class={n % 2 ? "band odd" : "band"} x={px(band.low)} width={Math.max(0, px(band.high) - px(band.low))} y={top - 16} height={base - top + 16} />
          {px(band.high) - px(band.low) > 34 && (
            <Tick x={(px(band.low) + px(band.high)) / 2} y={top - 4}>{band.share}</Tick>
          )}
        </g>
      ))}
      {[...(more.length ? [all] : []), counts].map((some, layer, { length }) => some.map((count, n) => {
        const h = (Math.log1p(count) / most) * (base - top - 4);
        return <rect class={layer < length - 1 ? "column in" : "column"} x={px(edges[n]) + 0.75} width={Math.max(0.5, px(edges[n + 1]) - px(edges[n]) - 1.5)} y={base - h} height={h}><title>{`${n < own.length - 1 ? `${short(edges[n])} to ${short(edges[n + 1])}` : `above ${short(last)}`}: ${count}`}</title></rect>;
      }))}
      <line class="axis" x1={left} x2={width - right} y1={base} y2={base} />
      {ticks({ low, high, name: "" }).map((at) => <Tick x={within(px(at), 6, width - 14)} y={base + 15}>{short(at)}</Tick>)}
      {mark !== null && <line class="mark" x1={px(Math.min(mark, high))} x2={px(Math.min(mark, high))} y1={top - 16} y2={base + 4} />}
    </svg>
  );
}

/** Columns of shares, as by decile of the norm. */
export function Columns({ shares, ends, words }: { shares: number[]; ends: [string, string]; words: string }) {
  const width = 160, height = 74, base = height - 17;
  const most = Math.max(...shares, 1e-9), step = width / shares.length;
  return (
    <svg viewBox={`0 0 ${width} ${height}`} role="img" aria-label={words} class="chart columns">
      {shares.map((share, n) => {
        const h = (share / most) * (base - 4);
        return <rect class="column" x={n * step + 1} width={step - 2} y={base - h} height={h}><title>{`${Math.round(share * 1000) / 10} %`}</title></rect>;
      })}
      <line class="axis" x1={0} x2={width} y1={base} y2={base} />
      <Tick x={0} y={height - 3} anchor="start">{ends[0]}</Tick>
      <Tick x={width} y={height - 3} anchor="end">{ends[1]}</Tick>
    </svg>
  );
}

/** Eight small columns in a row of the list; heights 0 to 9. */
export function Spark({ heights }: { heights: number[] | undefined }) {
  const path = (heights ?? []).map((h, n) => (h ? `M${n * 6 + 2.5} 18V${18 - h * 1.8}` : "")).join("");
  return <svg class="spark" viewBox="0 0 48 18" aria-hidden="true"><path d={path} /></svg>;
}
