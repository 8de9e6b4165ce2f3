// Two members side by side: which features both found, which one split, which only one has.
import { useEffect, useState } from "preact/hooks";
import { loadFeature, loadSequence, member as memberOf, useIndex } from "./data";
import { Inspector, Rows } from "./examples";
import { fixed, percent, whole } from "./format";
import { useKeys } from "./keys";
import { Bars, Failure, Filled, Head, None, Open, Options, Over, Remark, Small, Switch, Waiting, Wide } from "./parts";
import { link, replace, toFeature, toMember } from "./route";
import { Members } from "./sweep";
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
  const { value: left, error: one } = useIndex(a);
  const { value: right, error: other } = useIndex(b);
  const error = one ?? other;
  const mine = left?.match?.[b.name], theirs = right?.match?.[a.name];
  return (
    <main class="wide">
      <Head kicker="Two dictionaries side by side" title={<><a href={toMember(a.name)}>{a.name}</a> <span class="with">and</span> <a href={toMember(b.name)}>{b.name}</a></>}>
        <nav class="walk"><a class="button" href={link("compare", b.name, a.name)}>swap</a></nav>
      </Head>
      <Over member={a} />
      <Members of={[a, b]} />
      <Failure error={error} />
      {mine && theirs ? <Matches a={a} b={b} read={[{ index: left, match: mine }, { index: right, match: theirs }]} i={i} /> : left && right ? (
        <p class="behind">There is no match: decoder rows are compared at the same hook only.</p>
      ) : !error && <Waiting />}
    </main>
  );
}

function Matches({ a, b, read: [left, right], i }: { a: Member; b: Member; read: [Read, Read]; i: number | null }) {
  const [bar, setBar] = useState(0.7);
  const [kind, setKind] = useState<Kind | "onlyB">("shared");
  const [shown, setShown] = useState(50);
  const alive = (one: Read) => Array.from(one.index.density, (density, n) => (density ? n : -1)).filter((n) => n >= 0);
  const mine = alive(left), theirs = alive(right);
  const sorted = (kind: Kind, all: number[], { match: { cos, j } }: Read, other: Read) =>
    all.filter((n) => kindOf(n, { cos, j }, other.match, bar) === kind).sort((x, y) => (cos[y] ?? 0) - (cos[x] ?? 0) || x - y);
  const ours = (kind: Kind) => sorted(kind, mine, left, right);
  const groups: Record<Kind | "onlyB", number[]> = {
    shared: ours("shared"), split: ours("split"), only: ours("only"), onlyB: sorted("only", theirs, right, left),
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
        <Open member={from} i={n} />
        <Filled ids={one.index.tokens[n]} />
        <td>{j >= 0 ? fixed(match.cos[n]) : "–"}</td>
        <Open member={to} i={j} />
        <Filled ids={other.index.tokens[j]} />
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
      <Remark>
        Of the features that fired: {whole(mine.length)} in {a.name}, {whole(theirs.length)} in {b.name}; by cosine of the decoder rows. Shared: each is the other's best match. Split: the best match matches another one better. Only: no match reaches {bar}.
      </Remark>
      <Options>
        <Switch label="cosine at least" value={bar} options={[[0.5, "0.5"], [0.7, "0.7"], [0.9, "0.9"]]} set={setBar} />
        <Switch label="show" value={kind} options={names.map(([key, name]) => [key, name] as const)} set={(key) => (setKind(key), setShown(50))} />
      </Options>
      <Wide label="Features and their matches">
        <Bars kind="matches" heads={[`-${(kind === "onlyB" ? b : a).name}`, "-tokens", "cosine", `-${(kind === "onlyB" ? a : b).name}`, "-tokens", "?examples"]}>{list.slice(0, shown).map(row)}</Bars>
      </Wide>
      {list.length === 0 && <None>There are none.</None>}
      {list.length > shown && <p class="under"><button onClick={() => setShown(shown + 200)}>Show more of {whole(list.length)}</button></p>}
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
  const side = (name: string, feature: Feature, windows: Window[], title: string) => (
    <section aria-label={`${name}: ${title}`}>
      <h3><a href={toFeature(name, feature.i)}>{feature.i}</a> of {name} <Small>{title}</Small></h3>
      {windows.length ? <Rows member={name} windows={windows} max={feature.max} context={12} perRow={false} label={`${name}: ${title}`} /> : <None>None are kept in this folder.</None>}
    </section>
  );
  return (
    <section class="both" aria-label="Both features">
      <h2>{i} ↔ {j} <Small>cosine {fixed(left.match.cos[i])} · fires on {percent(one.density)} and {percent(other.density)} of tokens</Small></h2>
      <div class="columns-2 even">
        {side(a.name, one, top, "top examples")}
        {side(b.name, other, held, "on the same tokens")}
        {side(b.name, other, (other.groups.top ?? []).slice(0, 8), "top examples")}
      </div>
      {(b.strongest ?? 64) < 64 && <Remark>Of {b.name} this folder has the {b.strongest} strongest features of each token: weaker values of {j} are not there.</Remark>}
      <Inspector />
      <p><a href={link("compare", a.name, b.name)}>close</a></p>
    </section>
  );
}

export const compareRoute = (path: string[]) => {
  const [a, b] = [memberOf(path[1]), memberOf(path[2])];
  return a && b ? { a, b, i: path[3] === undefined ? null : Number(path[3]) } : null;
};
