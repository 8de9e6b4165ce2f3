// What the builder writes: docs/formats.md has every key.

export type Pair = [number, number];

export interface Member {
  name: string;
  hook: string;
  architecture: string;
  features: number;
  asked?: Record<string, number>;
  step?: number;
  training_tokens?: number;
  l0: number | null;
  explained_variance: number | null;
  delta_ce: number | null;
  delta_ce_se: number | null;
  dead: number | null;
  frequent: number | null;
  never: number | null;
  shards: { features: number; sequences: number };
  sequences: number;
  density?: { edges: number[]; counts: number[] };
  by_norm?: { edges: number[]; tokens: number[]; explained_variance: (number | null)[]; l0: (number | null)[] };
  chosen?: boolean;
  tokens?: { counted: number; masked: number }; // the mask depends on the hook
  coactivation_tokens?: number;
}

export interface Manifest {
  format: number;
  run: string;
  version: string;
  fingerprint: string;
  model: { name: string; layers?: number; width?: number; vocabulary?: number };
  tokens: { counted: number; masked: number; split: string; sequences: number; context: number; corpus?: string; mask?: string };
  members: Member[];
  chosen: string | null;
  server: boolean;
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

/** A stretch of text: token ids, where the peak is, and the values where the feature is active. */
export interface Window {
  s: number;
  p: number;
  c: number;
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
  norm?: (number | null)[];
  err?: (number | null)[];
  m?: number[];
  f: Pair[][];
  more?: number[];
}
