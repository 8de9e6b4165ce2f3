// Beside the examples of a feature: its values, logits, neighbours, places, tokens and its match in other members.
import type { ComponentChildren } from "preact";
import { Columns, Histogram } from "./charts";
import { member as memberOf } from "./data";
import { looked } from "./examples";
import { fixed, percent, short, signed, whole } from "./format";
import { Bar, Heads, Token, Tokens } from "./parts";
import { link, toFeature } from "./route";
import type { Feature, Index, Member, Pair } from "./types";

function Panel({ title, note, children }: { title: string; note?: string; children: ComponentChildren }) {
  return (
    <section class="panel">
      <h2>{title}</h2>
      {note && <p class="note">{note}</p>}
      {children}
    </section>
  );
}

/** Beside the examples. */
export function Aside({ feature, bands }: { feature: Feature; bands: "value" | "mass" }) {
  return (
    <aside class="panels" aria-label="About the feature">
      {feature.hist && feature.firings > 0 && <Values feature={feature} bands={bands} />}
      {feature.logits && <Logits logits={feature.logits} />}
      {!!feature.tokens?.length && <TokenShares tokens={feature.tokens} />}
      {feature.firings > 0 && <Places feature={feature} />}
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

function Values({ feature, bands }: { feature: Feature; bands: "value" | "mass" }) {
  const at = looked.use();
  const { edges, counts } = feature.hist!;
  const groups = feature.groups[bands] ?? [];
  return (
    <Panel title="Values" note={`Where it fires; height on a logarithmic scale. Shaded: bands of equal ${bands === "mass" ? "activation" : "width"}, with their share of the ${bands === "mass" ? "firings" : "activation"}.`}>
      <Histogram
        edges={edges}
        counts={counts}
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
    <table class="bars">
      <caption>{name}</caption>
      <tbody>
        {pairs.map(([id, value]) => (
          <tr><td class="text"><Token id={id} /></td><td class="barcell"><Bar share={value / most} signed /></td><td>{signed(value)}</td></tr>
        ))}
      </tbody>
    </table>
  );
  return (
    <Panel title="Logits" note="What it writes, by its decoder row alone.">
      <div class="pair">{side(logits.plus, "raises")}{side(logits.minus, "lowers")}</div>
    </Panel>
  );
}

function Neighbours({ member, feature, index }: { member: Member; feature: Feature; index: Index | undefined }) {
  const tokens = (j: number) => <td class="text fill"><Tokens ids={index?.tokens[j]} /></td>;
  const open = (j: number) => <td class="text"><a href={toFeature(member.name, j)}>{j}</a></td>;
  return (
    <>
      {!!feature.decoder?.length && (
        <Panel title="Nearest decoder rows" note="By cosine: what it writes, others write too.">
          <table class="bars">
            <Heads of={["-feature", "-tokens", "cosine"]} />
            <tbody>{feature.decoder.map(([j, cos]) => <tr>{open(j)}{tokens(j)}<td>{fixed(cos)}</td></tr>)}</tbody>
          </table>
        </Panel>
      )}
      {!!feature.coact?.length && (
        <Panel title="Fires together with" note={member.coactivation_tokens ? `On ${whole(member.coactivation_tokens)} tokens.` : undefined}>
          <table class="bars">
            <Heads of={["-feature", "-tokens", "P(other | this)", "Jaccard"]} />
            <tbody>{feature.coact.map(([j, given, jaccard]) => <tr>{open(j)}{tokens(j)}<td>{percent(given)}</td><td>{fixed(jaccard)}</td></tr>)}</tbody>
          </table>
        </Panel>
      )}
    </>
  );
}

function Stability({ member, feature }: { member: Member; feature: Feature }) {
  return (
    <Panel title="In the other dictionaries" note="Its best match by cosine of the decoder rows: near 1, the same feature was found again.">
      <table class="bars">
        <tbody>
          {feature.stability!.map((match) => (
            <tr>
              <td class="text">{match.member}</td>
              <td class="text">{memberOf(match.member) ? <a href={toFeature(match.member, match.i)}>{match.i}</a> : match.i}</td>
              <td class="barcell"><Bar share={match.cos} /></td>
              <td>{fixed(match.cos)}</td>
              <td>{memberOf(match.member) && <a href={link("compare", member.name, match.member, feature.i)} aria-label={`compare with ${match.i} of ${match.member}`}>compare</a>}</td>
            </tr>
          ))}
        </tbody>
      </table>
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
      <table class="bars">
        <Heads of={["-token", "?bar", "firings", "mean"]} />
        <tbody>{tokens.map(([id, share, mean]) => <tr><td class="text"><Token id={id} /></td><td class="barcell"><Bar share={share} /></td><td>{percent(share)}</td><td>{short(mean)}</td></tr>)}</tbody>
      </table>
    </Panel>
  );
}
