// A whole text, token by token: press one to see all its features, the largest first.
import { useState } from "preact/hooks";
import { sequenceIds, sequenceKey, useData, useIndex } from "./data";
import { farthest, heat } from "./examples";
import { many, percent, short, whole, within } from "./format";
import { claim, modified, useKeys } from "./keys";
import { Bar, Bars, Failure, Filled, Head, None, Open, Options, Over, Remark, Small, Spans, Switch, Token, Waiting } from "./parts";
import { go, link, replace, route, toToken } from "./route";
import { type Piece, pieces } from "./text";
import type { Index, Member, Pair, Sequence } from "./types";

type By = "norm" | "error" | "feature";

/** What a text shows of each token, from a file or from the server. */
export interface Tokenwise {
  ids: number[];
  norm: (number | null)[];
  err: (number | null)[];
  masked: Set<number>;
  f: Pair[][];
  more: number[];
}

export const tokenwise = (one: Omit<Sequence, "s">): Tokenwise => ({
  ids: one.ids, norm: one.norm, err: one.err, masked: new Set(one.m), f: one.f, more: one.more,
});

/** Values to colour by: ‖x‖ and the error by rank, for one long token would pale all others; a feature by its own scale. */
function shares(text: Tokenwise, by: By, feature: number): number[] {
  if (by === "feature") {
    const values = text.f.map((pairs) => pairs.find(([i]) => i === feature)?.[1] ?? 0);
    const most = Math.abs(farthest(values)) || 1;
    return values.map((value) => value / most);
  }
  const values = by === "norm" ? text.norm : text.err;
  const sorted = values.filter((x): x is number => x !== null).sort((a, b) => a - b);
  return text.ids.map((_, at) => {
    const x = values[at];
    if (x === null || x === undefined) return 0;
    const rank = sorted.findIndex((other) => other >= x) / Math.max(1, sorted.length - 1);
    return rank < 0.5 ? 0 : (rank - 0.5) * 2;
  });
}

function TokenText({ text, at, by, feature, choose }: { text: Tokenwise; at: number; by: By; feature: number; choose: (at: number) => void }) {
  const all = pieces(text.ids);
  const shade = shares(text, by, feature);
  const now = all.findIndex((piece) => piece.from <= at && at <= piece.to);
  const of = (piece: Piece) => farthest(shade.slice(piece.from, piece.to + 1));
  const move = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10 }[event.key as string];
    if (!step || modified(event)) return;
    event.preventDefault();
    choose(all[within(now + step, 0, all.length - 1)].from);
  };
  const press = (event: Event) => {
    const span = (event.target as Element).closest<HTMLElement>("[data-at]");
    if (span && !getSelection()?.toString()) choose(all[Number(span.dataset.at)].from);
  };
  return (
    <div class="text-box" dir="auto" tabIndex={0} role="group" aria-label="The text: arrow keys move over its tokens" onKeyDown={move} onClick={press} ref={claim}>
      <Spans at of={all} kind={(piece, n) => `${heat(of(piece))} ${n === now ? "peak" : ""} ${text.masked.has(piece.from) ? "masked" : ""}`} />
    </div>
  );
}

/** All features of one token, largest first, each with its share of its own maximum. */
function FeaturesOf({ member, index, text, at, feature, look, act }: {
  member: Member; index: Index | undefined; text: Tokenwise; at: number; feature: number;
  look: (feature: number) => void; act?: (feature: number) => preact.JSX.Element;
}) {
  const id = text.ids[at];
  const pairs = text.f[at] ?? [];
  const most = Math.abs(pairs[0]?.[1] ?? 1);
  return (
    <section class="token-features" aria-label="Features of the token">
      <h2><Token id={id} /> <Small>position {at}</Small></h2>
      <p class="note" role="status">
        {text.masked.has(at) ? "Left out of all numbers. " : ""}
        {many(pairs.length + (text.more[at] ?? 0), "feature")} · ‖x‖ {short(text.norm[at])} · error {percent(text.err[at])} of ‖{member.hook_out ? "y" : "x"}‖²
      </p>
      {pairs.length > 0 && (
        <Bars heads={["-feature", "?bar", "value", "of its max", "-tokens", "?do"]}>
            {pairs.map(([i, value]) => (
              <tr class={i === feature ? "chosen" : ""}>
                <Open {...{ member, i }} />
                <Bar share={value / most} signed />
                <td>{short(value)}</td>
                <td>{index?.max[i] ? percent(value / index.max[i]!) : "–"}</td>
                <Filled ids={index?.tokens[i]} />
                <td class="text acts"><button aria-pressed={i === feature} onClick={() => look(i)} aria-label={`colour the text by feature ${i}`}>colour</button>{act?.(i)}</td>
              </tr>
            ))}
        </Bars>
      )}
      {!!text.more[at] && <Remark>and {many(text.more[at], "weaker feature")} more.</Remark>}
    </section>
  );
}

/** A text beside the features of one of its tokens. */
export function Reading({ member, index, text, at, choose, first, said, act }: {
  member: Member; index: Index | undefined; text: Tokenwise; at: number; choose: (at: number) => void;
  first: number; said: string; act?: (feature: number) => preact.JSX.Element;
}) {
  const [feature, setFeature] = useState(first);
  const [by, setBy] = useState<By>(first >= 0 ? "feature" : "norm");
  const look = (i: number) => (setFeature(i === feature ? -1 : i), setBy(i === feature ? "norm" : "feature"));
  return (
    <div class="columns-2 even">
      <section aria-label="Text">
        <Options>
          <Switch label="colour by" value={by} options={[["norm", "‖x‖"], ["error", "error"], ...(feature >= 0 ? [["feature", `feature ${feature}`] as const] : [])]} set={setBy} />
        </Options>
        <TokenText {...{ text, at, by, feature, choose }} />
        <Remark>{by === "feature" ? `Coloured by feature ${feature}, up to its largest value here.` : `Coloured: the ${by === "norm" ? "longer" : "worse rebuilt"} half of the tokens, by rank.`} Press a token, or move with the arrow keys.{said}</Remark>
      </section>
      <FeaturesOf {...{ member, index, text, at, feature, look, act }} />
    </div>
  );
}

export function TextPage({ member, s, position }: { member: Member; s: number | null; position: number }) {
  const { value: index, error: indexError } = useIndex(member);
  const listed = index ? sequenceIds(member, index) : [];
  const wanted = s ?? listed[0] ?? null;
  const key = index && wanted !== null ? sequenceKey(member, index, wanted) : null;
  const { value: page, error } = useData<Sequence[]>(key);
  const { query } = route.use();
  const found = page?.find((one) => one.s === wanted);
  const at = found ? within(position, 0, found.ids.length - 1) : 0;
  const place = listed.indexOf(wanted ?? -1);
  const step = (by: number) => place >= 0 && listed[place + by] !== undefined && go(toToken(member.name, listed[place + by], 0));
  useKeys({ j: () => step(1), k: () => step(-1) });
  const text = found && tokenwise(found);
  const missing = index && (key === null || (page && !found));
  return (
    <main class="wide">
      <Head kicker={`${member.name} · ${member.hook}`} title={wanted === null ? "Texts" : `Text ${wanted}`}>
        <nav class="walk" aria-label="Texts">
          <button disabled={place <= 0} onClick={() => step(-1)}>‹ previous</button>
          <button disabled={place < 0 || place >= listed.length - 1} onClick={() => step(1)}>next ›</button>
          {place >= 0 && <Small>{whole(place + 1)} of {whole(listed.length)}</Small>}
        </nav>
      </Head>
      <Over member={member} />
      <Failure error={error ?? indexError} />
      {missing && <None>{wanted === null ? "This site holds no texts." : `This site does not hold sequence ${wanted} token by token. `}{listed.length > 0 && <a href={toToken(member.name, listed[0], 0)}>See one that it holds</a>}</None>}
      {!text && !missing && !error && !indexError && <Waiting />}
      {text && (
        <Reading {...{ member, index, text, at }} first={Number(query.get("feature") ?? -1)} choose={(to) => replace(toToken(member.name, wanted!, to))}
          said={text.more.some(Boolean) ? ` Of each token the ${member.strongest} strongest features are kept in this folder, and the others counted.` : ""} />
      )}
    </main>
  );
}

export const toTexts = (member: Member) => link("m", member.name, "text");
