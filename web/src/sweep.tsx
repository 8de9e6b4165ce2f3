// The sweep: what each member costs and keeps, and the way in.
import { useState } from "preact/hooks";
import { type Line, Lines, Scatter, type Axis } from "./charts";
import { manifest } from "./data";
import { fixed, many, percent, short, whole } from "./format";
import { Heads, Kicker, Options, Over, Small, Switch, Unseen, Wide, Words } from "./parts";
import { go, link, toMember } from "./route";
import type { Member, Share } from "./types";

const known = (x: number | null | undefined): x is number => typeof x === "number";

function around(values: number[], log = false): [number, number] {
  const low = Math.min(...values), high = Math.max(...values);
  if (log) return low === high ? [low / 2, high * 2] : [low / (high / low) ** 0.12, high * (high / low) ** 0.12];
  const room = (high - low) * 0.14 || Math.abs(high) * 0.1 || 0.1;
  return [low - room, high + room];
}

export function Sweep() {
  const { run, members, model, tokens } = manifest();
  const [ticked, setTicked] = useState<string[]>([]);
  const [near, setNear] = useState<string | null>(null);
  const strong = (one: Member) => one.name === near || ticked.includes(one.name);
  const tick = (name: string) => setTicked(ticked.includes(name) ? ticked.filter((other) => other !== name) : [...ticked.slice(-1), name]);
  const warnings = members.filter((one) => known(one.never) && one.never / one.features > 0.1);
  return (
    <main>
      <Kicker>What was learned</Kicker>
      <h1>{run}</h1>
      <p class="lead">
        {many(members.length, "dictionary", "dictionaries")} of the activations of {model.name}
        . Open {members.length > 1 ? "one to see its features, or tick two to compare them" : "it to see its features"}.
      </p>
      <Over />
      <section aria-label="Members">
        <Members of={members} near={setNear} tick={members.length > 1 ? (one) => <label class="tick"><input type="checkbox" checked={ticked.includes(one.name)} onChange={() => tick(one.name)} /><Unseen>compare {one.name}</Unseen></label> : undefined} />
        {members.length > 1 && (
          <p class="under">
            <button class="main" disabled={ticked.length !== 2} onClick={() => go(link("compare", ...ticked))}>
              Compare {ticked.length === 2 ? `${ticked[0]} with ${ticked[1]}` : "two ticked"}
            </button>
          </p>
        )}
        {warnings.map((one) => (
          <p class="behind">{one.name}: {percent(one.never! / one.features)} of the features never fired on these {short(one.tokens?.counted ?? tokens.counted)} tokens.</p>
        ))}
      </section>
      <section aria-label="Charts" class="pictures"><Pictures members={members} strong={strong} /></section>
    </main>
  );
}

/** Dictionaries in numbers. */
export function Members({ of, tick, near }: { of: Member[]; tick?: (one: Member) => preact.JSX.Element; near?: (name: string | null) => void }) {
  return (
    <Wide label="Dictionaries in numbers">
      <table class="members">
        <Heads of={[!!tick && "?compare", "-dictionary", "features", "L0", "explained variance", "ΔCE, nats", "dead", "active on > 10 %", "never fired here"]} />
        <tbody>
          {of.map((one) => (
            <tr class={one.chosen ? "chosen" : ""} onPointerEnter={() => near?.(one.name)} onPointerLeave={() => near?.(null)}>
              {tick && <Words>{tick(one)}</Words>}
              <Words><a class="open" href={toMember(one.name)}>{one.name}</a>{one.chosen && <Small> chosen</Small>}<br /><Small>{one.architecture} · {one.hook}</Small></Words>
              <td>{whole(one.features)}</td>
              <td>{fixed(one.l0, 1)}</td>
              <td>{fixed(one.explained_variance, 3)}</td>
              <td>{fixed(one.delta_ce, 4)}{known(one.delta_ce_se) && <Small> ± {fixed(one.delta_ce_se, 4)}</Small>}</td>
              <td>{percent(one.dead)}</td>
              <td>{percent(one.frequent)}</td>
              <td>{whole(one.never)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Wide>
  );
}

function Pictures({ members, strong }: { members: Member[]; strong: (one: Member) => boolean }) {
  const l0: Axis = { low: 1, high: 2, log: true, name: "L0: active features a token" };
  const listed = (ys: (one: Member) => number | null) => members.filter((one) => known(one.l0) && one.l0 > 0 && known(ys(one)));
  const dots = (these: Member[], ys: (one: Member) => number | null, errors?: (one: Member) => number | null) =>
    these.map((one) => ({ name: one.name, x: one.l0!, y: ys(one)!, error: errors?.(one), family: `${one.architecture} ${one.hook}`, mark: !!one.chosen, strong: strong(one) }));
  const scatter = (title: string, caption: string, ys: (one: Member) => number | null, errors?: (one: Member) => number | null) => {
    const these = listed(ys);
    if (!these.length) return null;
    const [low, high] = around(these.map((one) => one.l0!), true);
    const [bottom, top] = around(these.map((one) => ys(one)!));
    const words = `${title}: ${these.map((one) => `${one.name} L0 ${short(one.l0)}, ${short(ys(one))}`).join("; ")}`;
    return (
      <figure>
        <h2>{title}</h2>
        <Scatter x={{ ...l0, low, high }} y={{ low: bottom, high: top, name: title }} dots={dots(these, ys, errors)} words={words} />
        <figcaption>{caption}</figcaption>
      </figure>
    );
  };
  return (
    <>
      {scatter("Cross-entropy added", "ΔCE in nats when the dictionary stands in for the activations; lower is better. Bars: one standard error.", (one) => one.delta_ce, (one) => one.delta_ce_se)}
      {scatter("Explained variance", "Share of the activations' variance that is rebuilt; higher is better, and predicting the mean has 0.", (one) => one.explained_variance)}
      <Density members={members} strong={strong} />
      <ByNorm members={members} strong={strong} />
    </>
  );
}

function Density({ members, strong }: { members: Member[]; strong: (one: Member) => boolean }) {
  const these = members.filter((one) => one.density?.counts.some((count) => count > 0));
  if (!these.length) return null;
  const lines: Line[] = these.map((one) => {
    const { edges, counts } = one.density!;
    return { name: one.name, strong: strong(one), xy: counts.map((count, n) => [10 ** ((edges[n] + edges[n + 1]) / 2), count / one.features]) };
  });
  const xs = lines.flatMap((line) => line.xy.filter(([, y]) => y > 0).map(([x]) => x));
  const top = Math.max(...lines.flatMap((line) => line.xy.map(([, y]) => y)));
  const low = Math.min(...xs), high = Math.max(...xs);
  const inside = lines.map((line) => ({ ...line, xy: line.xy.filter(([x]) => x >= low && x <= high) }));
  return (
    <figure>
      <h2>How often features fire</h2>
      <Lines x={{ low, high, log: true, name: "density: share of tokens", text: percent }} y={{ low: 0, high: top * 1.12, name: "", text: percent }} lines={inside}
        words={`Density of the features of ${these.map((one) => one.name).join(", ")}`} />
      <figcaption>Share of a dictionary's features at each density, of those that fired.</figcaption>
    </figure>
  );
}

type Measure = "explained_variance" | Share;
const MEASURES: [Measure, string, string][] = [
  ["explained_variance", "explained variance", "Explained variance among tokens of like length: a dictionary may serve the long ones alone."],
  ["error", "error", "‖x − x̂‖² over ‖x‖² (of a transcoder, that of y), both summed over tokens of like length; lower is better."],
  ["l0_share", "share of L0", "Where features fire."],
  ["l1_share", "share of L1", "Where the L1 penalty, the sum of |f| ‖W_dec‖, comes from."],
];

function ByNorm({ members, strong }: { members: Member[]; strong: (one: Member) => boolean }) {
  const [measure, setMeasure] = useState<Measure>("explained_variance");
  const there = MEASURES.filter(([key]) => members.some((one) => one.by_norm?.[key]?.some(known)));
  const [key, name, caption] = there.find(([key]) => key === measure) ?? [];
  if (!key) return null;
  const lines: Line[] = members.map((one) => ({ name: one.name, strong: strong(one), xy: (one.by_norm?.[key] ?? []).flatMap((y, n): [number, number][] => (known(y) ? [[n + 1, y]] : [])) })).filter((line) => line.xy.length);
  const [low, high] = around(lines.flatMap((line) => line.xy.map(([, y]) => y)));
  const most = Math.max(...lines.flatMap((line) => line.xy.map(([x]) => x)));
  const share = key !== "explained_variance";
  return (
    <figure>
      <h2>By norm</h2>
      <Options><Switch label="show" value={key} options={there.map(([key, name]) => [key, name] as const)} set={setMeasure} /></Options>
      <Lines x={{ low: 1, high: most, name: "tokens by ‖x‖, shortest to longest" }} y={{ low: share ? Math.max(0, low) : low, high, name: "", text: share ? percent : undefined }} lines={lines}
        words={`${name} by norm of the activation, for ${lines.map((line) => line.name).join(", ")}`} />
      <figcaption>{caption} {/share/.test(key) && "A tenth each, were it even. "}Over all tokens, those left out too.</figcaption>
    </figure>
  );
}
