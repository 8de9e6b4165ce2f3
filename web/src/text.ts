// Token ids to what is drawn. A token is bytes; a character may take several tokens, and a stretch may begin inside one.
import { vocabulary } from "./data";

/** What a part is: plain text; white space with a mark; a named invisible character; a byte that is no character; a special token. */
export type Kind = "text" | "space" | "newline" | "return" | "tab" | "chip" | "byte" | "special";

export interface Part {
  kind: Kind;
  text: string; // what a copy holds
  name?: string; // what is shown instead
}

/** Tokens `from` to `to` (inclusive) that have to be drawn as one, because they share a character. */
export interface Piece {
  from: number;
  to: number;
  parts: Part[];
}

const NAMES: Record<number, string> = {
  0x00ad: "SHY", 0x034f: "CGJ", 0x061c: "ALM", 0x115f: "HCF", 0x1160: "HJF", 0x180e: "MVS",
  0x200b: "ZWSP", 0x200c: "ZWNJ", 0x200d: "ZWJ", 0x200e: "LRM", 0x200f: "RLM", 0x2028: "LS", 0x2029: "PS",
  0x202a: "LRE", 0x202b: "RLE", 0x202c: "PDF", 0x202d: "LRO", 0x202e: "RLO",
  0x2060: "WJ", 0x2061: "FA", 0x2062: "IT", 0x2063: "IS", 0x2064: "IP",
  0x2066: "LRI", 0x2067: "RLI", 0x2068: "FSI", 0x2069: "PDI",
  0x3164: "HF", 0xfeff: "BOM", 0xffa0: "HHF", 0xfff9: "IAA", 0xfffa: "IAS", 0xfffb: "IAT",
};
const SPACES = /[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]/;
const SELECTORS = /^[\u180b-\u180d\ufe00-\ufe0f]+$/; // they choose how the character before looks

const digits = (code: number, n: number) => code.toString(16).toUpperCase().padStart(n, "0");
const hex = (byte: number) => `\\x${digits(byte, 2)}`;
const unicode = (code: number) => `U+${digits(code, 4)}`;

function nameOf(code: number): string | undefined {
  if (NAMES[code]) return NAMES[code];
  const hidden =
    code < 0x20 || (code >= 0x7f && code < 0xa0) || (code >= 0x206a && code <= 0x206f) || (code >= 0xe0000 && code <= 0xe0fff);
  return hidden ? (code < 0x100 ? hex(code) : unicode(code)) : undefined;
}

function partOf(code: number): Part {
  const text = String.fromCodePoint(code);
  if (code === 0x0a) return { kind: "newline", text };
  if (code === 0x0d) return { kind: "return", text };
  if (code === 0x09) return { kind: "tab", text };
  if (code === 0x20 || SPACES.test(text)) return { kind: "space", text };
  const name = nameOf(code);
  // NUL cannot be copied: its name can
  return name ? { kind: "chip", text: code === 0 ? "" : text, name } : { kind: "text", text };
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The length of the UTF-8 character that begins at `at`, and its code; length 0 if none does. */
function character(bytes: number[], at: number): { length: number; code: number } {
  const lead = bytes[at];
  if (lead < 0x80) return { length: 1, code: lead };
  const length = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  try {
    return { length, code: decoder.decode(Uint8Array.from(bytes.slice(at, at + length))).codePointAt(0)! };
  } catch {
    return { length: 0, code: 0 };
  }
}

export const bytesOf = (id: number): string | undefined => (vocabulary().bytes as Record<number, string>)[id];
export const specialOf = (id: number): string | undefined => vocabulary().special[id];

/** Any answer of the server may bring tokens that the site's vocabulary lacks. */
export function learn(tokens: { id: number; bytes?: string }[]): void {
  for (const { id, bytes } of tokens)
    if (bytes !== undefined && specialOf(id) === undefined) (vocabulary().bytes as Record<number, string>)[id] = bytes;
}

/** The pieces of a run of tokens, in order; every token is in exactly one. */
export function pieces(ids: number[]): Piece[] {
  const done: Piece[] = [];
  let bytes: number[] = [];
  let owner: number[] = [];
  const add = (from: number, to: number, part: Part) => {
    const last = done[done.length - 1];
    if (last && from <= last.to) {
      last.to = Math.max(last.to, to);
      join(last.parts, part);
    } else done.push({ from, to, parts: [part] });
  };
  const flush = () => {
    for (let at = 0; at < bytes.length; ) {
      const { length, code } = character(bytes, at);
      if (length) add(owner[at], owner[at + length - 1], partOf(code));
      else add(owner[at], owner[at], { kind: "byte", text: hex(bytes[at]) });
      at += length || 1;
    }
    bytes = [];
    owner = [];
  };
  ids.forEach((id, token) => {
    const special = specialOf(id);
    const text = special ?? bytesOf(id);
    if (special !== undefined || !text) {
      flush();
      add(token, token, { kind: "special", text: text || `token ${id}` });
    } else
      for (let at = 0; at < text.length; at++) {
        bytes.push(text.charCodeAt(at) & 0xff);
        owner.push(token);
      }
  });
  flush();
  return done.map(visible);
}

function join(parts: Part[], part: Part): void {
  const last = parts[parts.length - 1];
  if (last.kind === part.kind && (part.kind === "text" || part.kind === "space")) last.text += part.text;
  else parts.push(part);
}

/** Any text in parts, so that what cannot be seen has a name. */
export function partsOf(text: string): Part[] {
  const parts: Part[] = [];
  for (const one of text) parts.length ? join(parts, partOf(one.codePointAt(0)!)) : parts.push(partOf(one.codePointAt(0)!));
  return parts;
}

/** A piece of nothing but variation selectors gets names, or there would be nothing to see or to press. */
function visible(piece: Piece): Piece {
  const all = piece.parts;
  if (all.every((part) => part.kind === "text" && SELECTORS.test(part.text)))
    piece.parts = all.flatMap((part) =>
      [...part.text].map((text): Part => ({ kind: "chip", text, name: unicode(text.codePointAt(0)!) })),
    );
  return piece;
}

/** True where drawing a piece shows nothing but white space. */
export const blank = (piece: Piece) => piece.parts.every((part) => part.kind === "space");

/** A token as plain text, for search; bytes that are no character as \xE2. */
export function plain(id: number): string {
  const text = bytesOf(id);
  if (text !== undefined && /^[ -~]+$/.test(text)) return text;
  return pieces([id]).flatMap((piece) => piece.parts).map((part) => part.text || part.name || "").join("");
}
