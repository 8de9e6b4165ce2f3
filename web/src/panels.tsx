// Beside the examples of a feature: its values, logits, neighbours, places, tokens and its match in other members.
import type { ComponentChildren } from "preact";
import { Columns, Histogram } from "./charts";
import { manifest, member as memberOf } from "./data";
import { looked } from "./examples";
import { fixed, percent, short, signed, whole } from "./format";
import { Bar, Bars, Filled, Open, Remark, Said, Small, Token, Words } from "./parts";
import type { In } from "./leftout";
import { link } from "./route";
import type { Feature, Index, Member, Pair } from "./types";

function Panel({ title, note, children }: { title: string; note?: string; children: ComponentChildren }) {
  return (
    <section class="panel">
      <h2>{title}</h2>
      {note && <Remark>{note}</Remark>}
      {children}
    </section>
  );
}

/** Beside the examples. */
export function Aside({ feature, bands, more, fired }: { feature: Feature; bands: "value" | "mass"; more: In; fired: boolean }) {
  return (
    <aside class="panels" aria-label="About the feature">
      {feature.hist && fired && <Values feature={feature} bands={bands} more={more.counts} />}
      {feature.logits && <Logits logits={feature.logits} />}
      {!!feature.tokens?.length && <TokenShares tokens={feature.tokens} />}
      {fired && <Places feature={feature} />}
    </aside>
  );
}

/** Below them: what else is like it. */
export function Below({ member, feature, index }: { member: Member; feature: Feature; index: Index | undefined }) {
  return (
    <div class="below">
      <Neighbours {...{ member, feature, index }} />
      {!!feature.stability?.length && <Stability {...{ member, feature }} />}
    </div>
  );
}

function Values({ feature, bands, more }: { feature: Feature; bands: "value" | "mass"; more: number[] }) {
  const at = looked.use();
  const { edges, counts } = feature.hist!;
  const groups = feature.groups[bands] ?? [];
  return (
    <Panel title="Values" note={`Height on a logarithmic scale. Shaded: bands of equal ${bands === "mass" ? "activation" : "width"}, with their share of the ${bands === "mass" ? "firings" : "activation"}.${more.length ? " Dark: what is counted in; last, all above the largest counted value." : ""}`}>
      <Histogram
        edges={edges}
        counts={counts}
        more={more}
        bands={groups.map((band) => ({ low: band.low, high: band.high, share: percent(bands === "mass" ? band.firings : band.mass) }))}
        mark={at?.value ?? null}
        words={`Histogram of ${whole(feature.firings)} values up to ${short(feature.max)}`}
      />
    </Panel>
  );
}

function Logits({ logits }: { logits: { plus: Pair[]; minus: Pair[] } }) {
  const most = Math.max(...[...logits.plus, ...logits.minus].map(([, value]) => Math.abs(value)), 1e-9);
  const side = (pairs: Pair[], name: string) => (
    <Bars caption={name}>
        {pairs.map(([id, value]) => (
          <tr><Words><Token id={id} /></Words><Bar share={value / most} signed /><td>{signed(value)}</td></tr>
        ))}
    </Bars>
  );
  return (
    <Panel title="Logits" note="What it writes, by its decoder row alone.">
      <div class="pair">{side(logits.plus, "raises")}{side(logits.minus, "lowers")}</div>
    </Panel>
  );
}

function Neighbours({ member, feature, index }: { member: Member; feature: Feature; index: Index | undefined }) {
  const named = (j: number) => <><Open member={member} i={j} /><Filled ids={index?.tokens[j]} /></>;
  return (
    <>
      {!!feature.decoder?.length && (
        <Panel title="Nearest decoder rows" note="By cosine: what it writes, others write too.">
          <Bars heads={["-feature", "-tokens", "cosine"]}>{feature.decoder.map(([j, cos]) => <tr>{named(j)}<td>{fixed(cos)}</td></tr>)}</Bars>
        </Panel>
      )}
      {!!feature.coact?.length && (
        <Panel title="Fires together with" note={member.coactivation_tokens ? `On ${whole(member.coactivation_tokens)} tokens.` : undefined}>
          <Bars heads={["-feature", "-tokens", "P(other | this)", "Jaccard"]}>{feature.coact.map(([j, given, jaccard]) => <tr>{named(j)}<td>{percent(given)}</td><td>{fixed(jaccard)}</td></tr>)}</Bars>
        </Panel>
      )}
    </>
  );
}

function Stability({ member, feature }: { member: Member; feature: Feature }) {
  const all = feature.stability!;
  const seedOf = (name: string) => (memberOf(name) ?? manifest().beside?.find((one) => one.name === name))?.seed ?? null;
  const differ = new Set([member.name, ...all.map((match) => match.member)].map(seedOf)).size > 1;
  const seed = (name: string) => (differ && seedOf(name) !== null ? ` seed ${seedOf(name)}` : "");
  return (
    <Panel title="In the other dictionaries" note={`Its best match by cosine of the decoder rows: near 1, the same feature was found again.${seed(member.name) && ` This one is of${seed(member.name)}.`}`}>
      <Bars kind="others">
          {all.map((match) => {
            const shown = memberOf(match.member);
            return (
              <tr>
                <Words><Said text={match.member} />{seed(match.member) && <Small>{seed(match.member)}</Small>}</Words>
                {shown ? <Open member={shown} i={match.i} /> : <Words>{match.i}</Words>}
                <Bar share={match.cos} />
                <td>{fixed(match.cos)}</td>
                <td>{shown && <a href={link("compare", member.name, match.member, feature.i)} aria-label={`compare with ${match.i} of ${match.member}`}>compare</a>}</td>
              </tr>
            );
          })}
      </Bars>
    </Panel>
  );
}

function Places({ feature }: { feature: Feature }) {
  const words = (name: string, shares: number[]) => `${name}: ${shares.map((share) => percent(share)).join(", ")}`;
  if (!feature.by_norm?.length && !feature.by_position?.length) return null;
  return (
    <Panel title="Where it fires" note="Share of its activation; by norm over all tokens, those left out too.">
      <div class="pair">
        {!!feature.by_norm?.length && <figure><Columns shares={feature.by_norm} ends={["short ‖x‖", "long"]} words={words("By norm of the activation", feature.by_norm)} /></figure>}
        {!!feature.by_position?.length && <figure><Columns shares={feature.by_position} ends={["start", "end of context"]} words={words("By position in the sequence", feature.by_position)} /></figure>}
      </div>
    </Panel>
  );
}

function TokenShares({ tokens }: { tokens: [number, number, number][] }) {
  return (
    <Panel title="On which tokens">
      <Bars heads={["-token", "?bar", "firings", "mean"]}>{tokens.map(([id, share, mean]) => <tr><Words><Token id={id} /></Words><Bar share={share} /><td>{percent(share)}</td><td>{short(mean)}</td></tr>)}</Bars>
    </Panel>
  );
}
