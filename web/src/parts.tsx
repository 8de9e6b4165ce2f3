// Small pieces that every view uses.
import type { ComponentChildren } from "preact";
import { manifest } from "./data";
import { many, whole } from "./format";
import { type Part, pieces, spoken } from "./text";
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

/** One token as a label: in lists, tables and tool lines. */
export function Token({ id }: { id: number }) {
  const all = pieces([id]);
  return (
    <bdi class="token" title={`token ${id}`}>
      {all.map((piece) => <Parts parts={piece.parts} label />)}
    </bdi>
  );
}

export const tokenWords = (id: number) => spoken(pieces([id]).flatMap((piece) => piece.parts));

export function Tokens({ ids }: { ids: number[] | undefined }) {
  return <span class="tokens">{(ids ?? []).map((id) => <Token id={id} />)}</span>;
}

/** What every number on the page is over. */
export function Over({ member, children }: { member?: Member; children?: ComponentChildren }) {
  const tokens = { ...manifest().tokens, ...member?.tokens };
  const split = tokens.split.replace(/_/g, "-");
  return (
    <p class="over">
      All numbers: {whole(tokens.counted)} {split} tokens{tokens.corpus ? ` of ${tokens.corpus}` : ""}, {many(tokens.sequences, "sequence")} of {tokens.context}. Left out: {tokens.mask || "nothing"}
      {tokens.masked ? ` (${many(tokens.masked, "token")})` : ""}.{children}
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

/** A few choices side by side, of which one holds. */
export function Switch<T extends string | number>({ label, value, options, set }: {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  set: (value: T) => void;
}) {
  return (
    <span class="switch" role="group" aria-label={label}>
      <span class="switch-label" aria-hidden="true">{label}</span>
      {options.map(([key, text]) => (
        <button type="button" aria-pressed={key === value} onClick={() => set(key)}>{text}</button>
      ))}
    </span>
  );
}

/** The heads of a table's columns: "-name" to the left, "?name" for ears alone. */
export function Heads({ of }: { of: (string | false)[] }) {
  return (
    <thead>
      <tr>
        {of.map((head) => head && (
          <th scope="col" class={/^[-?]/.test(head) ? "text" : undefined}>
            {head[0] === "?" ? <span class="unseen">{head.slice(1)}</span> : head.replace(/^-/, "")}
          </th>
        ))}
      </tr>
    </thead>
  );
}

/** A bar of a share, in a table. */
export function Bar({ share, signed = false }: { share: number; signed?: boolean }) {
  const width = Math.min(100, Math.abs(share) * 100);
  return (
    <span class="bar" aria-hidden="true">
      <span class={signed && share < 0 ? "down" : "up"} style={{ width: `${width}%` }} />
    </span>
  );
}
