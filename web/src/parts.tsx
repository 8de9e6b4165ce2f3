// Small pieces that every view uses.
import type { ComponentChildren } from "preact";
import { manifest } from "./data";
import { many, whole } from "./format";
import { blank, type Part, partsOf, type Piece, pieces } from "./text";
import { toFeature } from "./route";
import type { Member } from "./types";

/** Text as it is: never markup. White space gets its mark from the style sheet, so that a copy holds the text alone. */
export function Parts({ parts, spaces = false, label = false }: { parts: Part[]; spaces?: boolean; label?: boolean }) {
  return (
    <>
      {parts.map((part) => {
        if (part.kind === "text" || (part.kind === "space" && !spaces && !label)) return part.text;
        if (part.kind === "space") return <Spaces text={part.text} short={label} />;
        if (part.kind === "chip") return <span class="chip" data-name={part.name}>{part.text}</span>;
        return <span class={part.kind === "byte" ? "chip byte" : part.kind === "special" ? "special" : `ws ${part.kind}`}>{part.text}</span>;
      })}
    </>
  );
}

/** Spaces one by one; in a label more than three as their number. */
function Spaces({ text, short }: { text: string; short: boolean }) {
  if (short && text.length > 3) return <span class="ws run" data-run={text.length}>{text}</span>;
  return <>{[...text].map((space) => <span class="ws space">{space}</span>)}</>;
}

/** What a model or a person wrote. */
export const Said = ({ text, note }: { text: string; note?: boolean }) => <bdi class={note ? "note" : undefined}><Parts parts={partsOf(text)} /></bdi>;

/** One token as a label: in lists, tables and tool lines. */
export function Token({ id }: { id: number }) {
  const all = pieces([id]);
  return (
    <bdi class="token" title={`token ${id}`}>
      {all.map((piece) => <Parts parts={piece.parts} label />)}
    </bdi>
  );
}

export function Tokens({ ids }: { ids: number[] | undefined }) {
  return <span class="tokens">{(ids ?? []).map((id) => <Token id={id} />)}</span>;
}

/** A cell of them, as wide as there is room. */
export const Filled = ({ ids }: { ids: number[] | undefined }) => <td class="text fill"><Tokens ids={ids} /></td>;

interface Inside {
  children?: ComponentChildren;
}
/** Beside what matters more: within a line, as a line, and a cell of words. */
export const Small = ({ children }: Inside) => <span class="note">{children}</span>;
export const Remark = ({ children }: Inside) => <p class="note">{children}</p>;
export const Words = ({ children }: Inside) => <td class="text">{children}</td>;
export const Unseen = ({ children }: Inside) => <span class="unseen">{children}</span>;
export const None = ({ children }: Inside) => <p class="none">{children}</p>;
export const Kicker = ({ children }: Inside) => <p class="kicker">{children}</p>;
/** The way to a feature, in a table; an empty cell for -1. */
export const Open = ({ member, i }: { member: { name: string }; i: number }) => <Words>{i >= 0 && <a href={toFeature(member.name, i)}>{i}</a>}</Words>;
/** What a page is of, and at its right what can be done. */
export const Head = ({ kicker, title, children }: Inside & { kicker: ComponentChildren; title: ComponentChildren }) => (
  <header class="page"><div><Kicker>{kicker}</Kicker><h1>{title}</h1></div>{children}</header>
);
export const Options = ({ children }: Inside) => <div class="options">{children}</div>;

/** What every number on the page is over. */
export function Over({ member, children }: { member?: Member; children?: ComponentChildren }) {
  const tokens = { ...manifest().tokens, ...member?.tokens };
  const counts = member ? [tokens.counted] : manifest().members.map((one) => one.tokens?.counted ?? tokens.counted);
  const [least, most] = [Math.min(...counts), Math.max(...counts)]; // hooks have outliers of their own
  const masked = tokens.masked && least === most ? ` (${many(tokens.masked, "token")})` : "";
  const split = tokens.split.replace(/_/g, "-");
  return (
    <p class="over">
      All numbers: {whole(least)}{most > least && ` to ${whole(most)}, by hook,`} {split} tokens{tokens.corpus ? ` of ${tokens.corpus}` : ""}, {many(tokens.sequences, "sequence")} of {tokens.context}. Left out{masked}: {tokens.mask || "nothing"}.{children}
    </p>
  );
}

export function Failure({ error }: { error: Error | undefined }) {
  return error ? <p class="failure" role="alert">{error.message}</p> : null;
}

export function Waiting() {
  return <p class="waiting" aria-live="polite">Reading …</p>;
}

export function Pick<T extends string>({ label, value, options, set }: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  set: (value: T) => void;
}) {
  return (
    <select aria-label={label} value={value} onChange={(event) => set(event.currentTarget.value as T)}>
      {options.map(([key, text]) => <option value={key}>{text}</option>)}
    </select>
  );
}

/** A few choices side by side, of which one holds; or several, where `value` is a list. */
export function Switch<T extends string | number>({ label, value, options, set }: {
  label: string;
  value: T | T[];
  options: readonly (readonly [T, string])[];
  set: (value: T) => void;
}) {
  return (
    <span class="switch" role="group" aria-label={label}>
      <span class="switch-label" aria-hidden="true">{label}</span>
      {options.map(([key, text]) => (
        <button aria-pressed={([] as T[]).concat(value).includes(key)} onClick={() => set(key)}>{text}</button>
      ))}
    </span>
  );
}

/** A table that scrolls by itself where it is too wide. */
export function Wide({ label, children }: { label: string; children: ComponentChildren }) {
  return <div class="scroll" tabIndex={0} role="region" aria-label={label}>{children}</div>;
}

/** Pieces of a text, each a span of its own. */
export function Spans({ of, kind, title, at }: { of: Piece[]; kind?: (piece: Piece, n: number) => string; title?: (piece: Piece) => string; at?: boolean }) {
  return <>{of.map((piece, n) => <span class={kind?.(piece, n).trim() || undefined} title={title?.(piece)} data-at={at ? n : undefined}><Parts parts={piece.parts} spaces={blank(piece)} /></span>)}</>;
}

/** The heads of a table's columns: "-name" to the left, "?name" for ears alone. */
export function Heads({ of }: { of: (string | false)[] }) {
  return (
    <thead>
      <tr>
        {of.map((head) => head && (
          <th scope="col" class={/^[-?]/.test(head) ? "text" : undefined}>
            {head[0] === "?" ? <Unseen>{head.slice(1)}</Unseen> : head.replace(/^-/, "")}
          </th>
        ))}
      </tr>
    </thead>
  );
}

/** A table of figures beside bars. */
export function Bars({ heads, caption, kind = "", children }: { heads?: (string | false)[]; caption?: string; kind?: string; children: ComponentChildren }) {
  return (
    <table class={`bars ${kind}`}>
      {caption && <caption>{caption}</caption>}
      {heads && <Heads of={heads} />}
      <tbody>{children}</tbody>
    </table>
  );
}

/** A cell with a bar of a share. */
export function Bar({ share, signed = false }: { share: number; signed?: boolean }) {
  const width = Math.min(100, Math.abs(share) * 100);
  return (
    <td class="barcell"><span class="bar" aria-hidden="true">
      <span class={signed && share < 0 ? "down" : "up"} style={{ width: `${width}%` }} />
    </span></td>
  );
}
