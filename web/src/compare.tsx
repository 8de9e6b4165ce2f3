// Two members side by side: which features both found, which one split, which only one has.
import { useEffect, useState } from "preact/hooks";
import { indexKey, loadFeature, loadSequence, member as memberOf, useData } from "./data";
import { Inspector, Rows } from "./examples";
import { fixed, percent, whole } from "./format";
import { useKeys } from "./keys";
import { Failure, Heads, Over, Switch, Tokens, Waiting } from "./parts";
import { link, replace, toFeature, toMember } from "./route";
import type { Feature, Index, Member, Window } from "./types";

type Match = NonNullable<Index["match"]>[string];
export type Kind = "shared" | "split" | "only";

/** shared: each is the other's best match; split: the match has a better one; only: no match reaches the bar. */
export function kindOf(i: number, mine: Match, theirs: Match, bar: number): Kind {
  const j = mine.j[i];
  if (j < 0 || (mine.cos[i] ?? 0) < bar) return "only";
  return theirs.j[j] === i ? "shared" : "split";
}

interface Read {
  index: Index;
  match: Match;
}

export function Compare({ a, b, i }: { a: Member; b: Member; i: number | null }) {
  const { value: left, error: one } = useData<Index>(indexKey(a));
  const { value: right, error: other } = useData<Index>(indexKey(b));
  const error = one ?? other;
  const mine = left?.match?.[b.name], theirs = right?.match?.[a.name];
  return (
    <main class="wide">
      <header class="page">
        <div>
          <p class="kicker">Two dictionaries side by side</p>
          <h1><a href={toMember(a.name)}>{a.name}</a> <span class="with">and</span> <a href={toMember(b.name)}>{b.name}</a></h1>
        </div>
        <nav class="walk"><a class="button" href={link("compare", b.name, a.name)}>swap</a></nav>
      </header>
      <Over />
      <Numbers a={a} b={b} />
      <Failure error={error} />
      {mine && theirs ? <Matches a={a} b={b} read={[{ index: left, match: mine }, { index: right, match: theirs }]} i={i} /> : left && right ? (
        <p class="behind">There is no match between the two: decoder rows are compared only at the same hook.</p>
      ) : !error && <Waiting />}
    </main>
  );
}

function Numbers({ a, b }: { a: Member; b: Member }) {
  const rows: [string, (one: Member) => string][] = [
    ["features", (one) => whole(one.features)], ["L0", (one) => fixed(one.l0, 1)], ["explained variance", (one) => fixed(one.explained_variance, 3)],
    ["ΔCE, nats", (one) => fixed(one.delta_ce, 4)], ["dead", (one) => percent(one.dead)], ["never fired here", (one) => whole(one.never)],
  ];
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label="Both in numbers">
      <table>
        <Heads of={["-dictionary", ...rows.map(([name]) => name)]} />
        <tbody>{[a, b].map((one) => <tr><th scope="row" class="text">{one.name}</th>{rows.map(([, text]) => <td>{text(one)}</td>)}</tr>)}</tbody>
      </table>
    </div>
  );
}

function Matches({ a, b, read: [left, right], i }: { a: Member; b: Member; read: [Read, Read]; i: number | null }) {
  const [bar, setBar] = useState(0.7);
  const [kind, setKind] = useState<Kind | "onlyB">("shared");
  const [shown, setShown] = useState(50);
  const alive = (one: Read) => Array.from(one.index.density, (density, n) => (density ? n : -1)).filter((n) => n >= 0);
  const mine = alive(left), theirs = alive(right);
  const sorted = (kind: Kind) => mine.filter((n) => kindOf(n, left.match, right.match, bar) === kind).sort((x, y) => (left.match.cos[y] ?? 0) - (left.match.cos[x] ?? 0) || x - y);
  const groups: Record<Kind | "onlyB", number[]> = {
    shared: sorted("shared"), split: sorted("split"), only: sorted("only"),
    onlyB: theirs.filter((n) => kindOf(n, right.match, left.match, bar) === "only").sort((x, y) => (right.match.cos[y] ?? 0) - (right.match.cos[x] ?? 0) || x - y),
  };
  const names: [Kind | "onlyB", string, number][] = [
    ["shared", "shared", mine.length], ["split", "split", mine.length], ["only", `only in ${a.name}`, mine.length], ["onlyB", `only in ${b.name}`, theirs.length],
  ];
  const open = kind === "onlyB" ? null : i;
  const list = groups[kind];
  const step = (by: number) => {
    const next = list[list.indexOf(i ?? -1) + by];
    if (next !== undefined && kind !== "onlyB") replace(link("compare", a.name, b.name, next));
  };
  useKeys({ j: () => step(1), k: () => step(-1) });
  const row = (n: number) => {
    const [from, to, one, other, match] = kind === "onlyB" ? [b, a, right, left, right.match] : [a, b, left, right, left.match];
    const j = match.j[n];
    return (
      <tr class={n === open ? "chosen" : ""}>
        <td class="text"><a href={toFeature(from.name, n)}>{n}</a></td>
        <td class="text fill"><Tokens ids={one.index.tokens[n]} /></td>
        <td>{j >= 0 ? fixed(match.cos[n]) : "–"}</td>
        <td class="text">{j >= 0 && <a href={toFeature(to.name, j)}>{j}</a>}</td>
        <td class="text fill">{j >= 0 && <Tokens ids={other.index.tokens[j]} />}</td>
        <td>{j >= 0 && kind !== "onlyB" && <a href={link("compare", a.name, b.name, n)} aria-label={`see both: ${n} and ${j}`}>see both</a>}</td>
      </tr>
    );
  };
  return (
    <>
      {i !== null && <Both a={a} b={b} i={i} left={left} right={right} />}
      <dl class="tiles">
        {names.map(([key, name, of]) => <div><dt>{name}</dt><dd>{percent(of ? groups[key].length / of : 0)}</dd></div>)}
      </dl>
      <p class="note">
        Of the features that fired: {whole(mine.length)} in {a.name}, {whole(theirs.length)} in {b.name}; by cosine of the decoder rows. Shared: each is the other's best match. Split: the best match matches another one better. Only: no match reaches {bar}.
      </p>
      <div class="options">
        <Switch label="cosine at least" value={bar} options={[[0.5, "0.5"], [0.7, "0.7"], [0.9, "0.9"]]} set={setBar} />
        <Switch label="show" value={kind} options={names.map(([key, name]) => [key, name] as const)} set={(key) => (setKind(key), setShown(50))} />
      </div>
      <div class="scroll" tabIndex={0} role="region" aria-label="Features and their matches">
        <table class="bars matches">
          <Heads of={[`-${(kind === "onlyB" ? b : a).name}`, "-tokens", "cosine", `-${(kind === "onlyB" ? a : b).name}`, "-tokens", "?examples"]} />
          <tbody>{list.slice(0, shown).map(row)}</tbody>
        </table>
      </div>
      {list.length === 0 && <p class="none">There are none.</p>}
      {list.length > shown && <p class="under"><button type="button" onClick={() => setShown(shown + 200)}>Show more of {whole(list.length)}</button></p>}
    </>
  );
}

/** The same window with the other member's values, where the site holds that text token by token. */
async function sameTokens(other: Member, index: Index, j: number, w: Window): Promise<Window | null> {
  const sequence = await loadSequence(other, index, w.s);
  if (!sequence) return null;
  const v = w.ids.flatMap((_, n): [number, number][] => {
    const value = sequence.f[w.p + n]?.find(([feature]) => feature === j)?.[1];
    return value ? [[n, value]] : [];
  });
  return { ...w, v };
}

function Both({ a, b, i, left, right }: { a: Member; b: Member; i: number; left: Read; right: Read }) {
  const j = left.match.j[i];
  const [found, setFound] = useState<{ one: Feature; other: Feature; twin: (Window | null)[] }>();
  const [error, setError] = useState<Error>();
  useEffect(() => {
    let mine = true;
    const read = async () => {
      const [one, other] = await Promise.all([loadFeature(a, i), loadFeature(b, j)]);
      if (!one || !other) throw new Error(`Feature ${i} of ${a.name} has no match in ${b.name}.`);
      if (mine) setFound({ one, other, twin: [] });
      const twin = await Promise.all((one.groups.top ?? []).slice(0, 8).map((w) => sameTokens(b, right.index, j, w)));
      if (mine) setFound({ one, other, twin });
    };
    read().catch((problem: Error) => mine && setError(problem));
    return () => void (mine = false);
  }, [a.name, b.name, i, j]);
  if (error || !found) return error ? <Failure error={error} /> : <Waiting />;
  const { one, other, twin } = found;
  const top = (one.groups.top ?? []).slice(0, 8);
  const held = twin.filter((w): w is Window => w !== null);
  const both = top.filter((_, n) => twin[n]);
  const side = (name: string, feature: Feature, windows: Window[], title: string) => (
    <section aria-label={`${name}: ${title}`}>
      <h3><a href={toFeature(name, feature.i)}>{feature.i}</a> of {name} <span class="note">{title}</span></h3>
      {windows.length ? <Rows member={name} windows={windows} max={feature.max} context={12} perRow={false} label={`${name}: ${title}`} /> : <p class="none">None are kept in this folder.</p>}
    </section>
  );
  return (
    <section class="both" aria-label="Both features">
      <h2>{i} ↔ {j} <span class="note">cosine {fixed(left.match.cos[i])} · fires on {percent(one.density)} and {percent(other.density)} of tokens</span></h2>
      <div class="columns-2 even">
        {side(a.name, one, top, "top examples")}
        {side(b.name, other, (other.groups.top ?? []).slice(0, 8), "top examples")}
      </div>
      {both.length > 0 && (
        <div class="columns-2 even">
          {side(a.name, one, both, "on texts kept token by token")}
          {side(b.name, other, held, "on the same tokens")}
        </div>
      )}
      <Inspector />
      <p><a href={link("compare", a.name, b.name)}>close</a></p>
    </section>
  );
}

export const compareRoute = (path: string[]) => {
  const [a, b] = [memberOf(path[1]), memberOf(path[2])];
  return a && b ? { a, b, i: path[3] === undefined ? null : Number(path[3]) } : null;
};
