// What the builder writes: docs/formats.md has every key.

export type Pair = [number, number];

export interface Member {
  name: string;
  hook: string; // of a transcoder IN -> OUT
  hook_out?: string; // only of a transcoder
  architecture: string;
  features: number;
  asked?: Record<string, number>;
  step?: number;
  training_tokens?: number;
  seed?: number | null;
  l0: number | null;
  explained_variance: number | null;
  delta_ce: number | null;
  delta_ce_se: number | null;
  dead: number | null;
  frequent: number | null;
  never: number | null;
  shards: { features: number; sequences: number };
  sequences: number;
  strongest?: number; // features kept of each token
  density?: { edges: number[]; counts: number[] };
  by_norm?: { edges: number[]; tokens: number[]; explained_variance: (number | null)[]; l0: (number | null)[] } & Partial<Record<Share, (number | null)[]>>;
  chosen?: boolean;
  tokens?: { counted: number; masked: number; left_out?: Record<Reason, number> }; // the mask depends on the hook
  described?: number;
  coactivation_tokens?: number;
}

export type Share = "error" | "error_share" | "l0_share" | "l1_share";
/** Why a token is left out of all numbers. */
export type Reason = "first" | "long" | "special";

export interface Manifest {
  format: number;
  run: string;
  version: string;
  fingerprint: string;
  model: { name: string; layers?: number; width?: number; vocabulary?: number };
  tokens: { counted: number; masked: number; split: string; sequences: number; context: number; corpus?: string; mask?: string; page?: number };
  members: Member[];
  chosen: string | null;
  server: boolean;
  beside?: { name: string; seed: number | null }[]; // matched, and not shown
  prompts?: number; // texts that come with unmix
}

export interface Vocabulary {
  special: Record<string, string>;
  bytes: string[] | Record<string, string>;
}

/** Columns over the features of one member. */
export interface Index {
  density: (number | null)[];
  max: (number | null)[];
  mean: (number | null)[];
  entropy: (number | null)[];
  top_share: (number | null)[];
  tokens: number[][];
  promotes: number[][];
  suppresses: number[][];
  nearest: number[];
  nearest_cos: (number | null)[];
  spark: number[][];
  first: (number | null)[];
  long: (number | null)[];
  label: string[];
  sequence_ids?: number[];
  match?: Record<string, { j: number[]; cos: (number | null)[] }>;
}

/** A stretch of text: where it stands, where the peak is, and the values where the feature is active. */
export interface Window {
  s: number;
  p: number;
  c: number;
  n?: number; // tokens; their ids come with the answer of a server, or from the site's text
  ids: number[];
  v: Pair[];
  m?: number[];
}

export interface Band {
  low: number;
  high: number;
  firings: number;
  mass: number;
  windows: Window[];
}

export interface Groups {
  top?: Window[];
  uniform?: Window[];
  value?: Band[];
  mass?: Band[];
  near?: Window[];
  silent?: Window[];
}

/** A feature on the tokens that are left out for one reason; counts by the histogram's bins, and above the last. */
export interface LeftOut {
  firings: number;
  mass: number;
  max: number;
  counts: number[];
  windows: Window[];
}

/** By a language model; scores on examples that it was not made from. */
export interface Score {
  accuracy: number;
  se: number;
  n: number;
}
export interface Description {
  text: string;
  model: string;
  detection: Score | null;
  fuzzing: Score | null;
}
export type Descriptions = Record<number, Description>;

export interface Feature {
  i: number;
  density: number | null;
  firings: number;
  max: number | null;
  mean: number | null;
  std: number | null;
  q?: (number | null)[];
  hist?: { edges: number[]; counts: number[] } | null;
  groups: Groups;
  left_out?: Partial<Record<Reason, LeftOut>>;
  logits?: { plus: Pair[]; minus: Pair[] } | null;
  decoder?: Pair[];
  coact?: [number, number, number][];
  stability?: { member: string; i: number; cos: number }[];
  by_norm?: number[] | null;
  by_position?: number[] | null;
  tokens?: [number, number, number][];
  label?: string;
}

/** One sequence with every token's features, largest first. */
export interface Sequence {
  s: number;
  ids: number[];
  norm: (number | null)[];
  err: (number | null)[];
  m: number[];
  f: Pair[][];
  more: number[];
}

/** A text that comes with unmix. */
export interface Builtin extends Omit<Sequence, "s"> {
  name: string;
  text: string;
  truncated: boolean;
}
