// Features ablated, held or added: the text as the model reads it then, and what it writes, beside the plain one.
import { useState } from "preact/hooks";
import { type Change, type Intervened, type Next, intervene } from "./api";
import { farthest, heat } from "./examples";
import { fixed, percent, short, signed } from "./format";
import { Bar, Failure, Parts, Pick, Switch, Token, Tokens } from "./parts";
import { blank, pieces } from "./text";
import type { Tokenwise } from "./texts";
import type { Index, Member } from "./types";

const KINDS = [["ablate", "ablate: set to 0"], ["clamp", "clamp: hold at"], ["add", "add"]] as const;

export function Steer({ member, index, text, changes, setChanges, at, shown }: {
  member: Member; index: Index | undefined; text: string; changes: Change[]; setChanges: (changes: Change[]) => void;
  at: number | null; shown: Tokenwise | undefined;
}) {
  const [here, setHere] = useState<"all" | "here">("all");
  const [options, setOptions] = useState({ generate: 40, seed: 0, temperature: 0.7 });
  const [wanted, setWanted] = useState("");
  const [said, setSaid] = useState<{ of: string; answer: Intervened }>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const edit = (n: number, part: Partial<Change>) => setChanges(changes.map((change, k) => (k === n ? { ...change, ...part } : change)));
  const number = (name: keyof typeof options, label: string, step: number, most: number) => (
    <label class="field">{label}<input type="number" min={0} max={most} step={step} value={options[name]} onInput={(event) => setOptions({ ...options, [name]: event.currentTarget.valueAsNumber || 0 })} /></label>
  );
  const put = () => {
    const i = Number(wanted);
    if (wanted !== "" && Number.isInteger(i) && i >= 0 && i < member.features && !changes.some((change) => change.feature === i))
      setChanges([...changes, { feature: i, kind: "add", strength: 1 }]);
    setWanted("");
  };
  const run = async () => {
    setBusy(true);
    setError(undefined);
    try {
      const where = here === "here" && at !== null ? at : "all";
      setSaid({ of: text, answer: await intervene({ member: member.name, text, changes, where, ...options }) });
    } catch (problem) {
      setError(problem as Error);
    } finally {
      setBusy(false);
    }
  };
  return (
    <section class="steer" aria-labelledby="steer-title">
      <h2 id="steer-title">Change features</h2>
      <p class="note">Strengths are in units of the feature's largest value on the counted tokens. The dictionary's error is kept: x + Δf · d.</p>
      {changes.length > 0 && (
        <table class="bars changes">
          <tbody>
            {changes.map((change, n) => (
              <tr>
                <td class="text">{change.feature}</td>
                <td class="text fill"><Tokens ids={index?.tokens[change.feature]} /></td>
                <td class="text"><Pick label={`What to do with feature ${change.feature}`} value={change.kind} options={KINDS} set={(kind) => edit(n, { kind })} /></td>
                <td>{change.kind !== "ablate" && <label class="field"><input type="number" step={0.25} value={change.strength} aria-label={`strength of feature ${change.feature}`} onInput={(event) => edit(n, { strength: event.currentTarget.valueAsNumber || 0 })} /> × {index?.max[change.feature] ? short(index.max[change.feature]) : "max"}</label>}</td>
                <td><button type="button" onClick={() => setChanges(changes.filter((_, k) => k !== n))} aria-label={`remove feature ${change.feature}`}>remove</button></td>
              </tr>
            ))}
          </tbody>
        </table>
      )}
      <form class="options" onSubmit={(event) => (event.preventDefault(), put())}>
        <label class="field">feature <input inputMode="numeric" pattern="[0-9]*" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} /></label>
        <button type="submit">add to the changes</button>
      </form>
      <div class="options">
        <Switch label="where" value={here} options={[["all", "every position"], ["here", at === null ? "the chosen token" : `position ${at}`]]} set={setHere} />
        {number("generate", "tokens to write", 1, 128)}
        {number("temperature", "temperature", 0.1, 2)}
        {number("seed", "seed", 1, 999999)}
        <button type="button" class="main" disabled={!text || !changes.length || busy} onClick={run}>{busy ? "Running …" : "Run plain and changed"}</button>
      </div>
      <Failure error={error} />
      {said && <Answer answer={said.answer} shown={said.of === text ? shown : undefined} />}
    </section>
  );
}

function Answer({ answer, shown }: { answer: Intervened; shown: Tokenwise | undefined }) {
  const { generated, next, kl, delta_logp } = answer;
  const kls = kl.filter((x): x is number => x !== null);
  return (
    <div aria-live="polite">
      <p class="note">KL from plain to changed, mean over positions: {short(kls.reduce((sum, x) => sum + x, 0) / Math.max(1, kls.length))} nats.{answer.cut && " Fewer tokens were written than asked for: the model takes no more."}</p>
      {shown && <Shift text={shown} delta={delta_logp} kl={kl} />}
      <div class="columns-2 even">
        {(["plain", "changed"] as const).map((side) => (
          <section aria-label={side}>
            <h3>{side}</h3>
            {generated?.[side]?.length > 0 && <p class="text-box" dir="auto"><Run ids={generated[side].map((token) => token.id)} /></p>}
            {next?.[side]?.length > 0 && <NextTable list={next[side]} />}
          </section>
        ))}
      </div>
    </div>
  );
}

function Run({ ids }: { ids: number[] }) {
  return <>{pieces(ids).map((piece) => <span><Parts parts={piece.parts} spaces={blank(piece)} /></span>)}</>;
}

function NextTable({ list }: { list: Next[] }) {
  return (
    <table class="bars">
      <caption>next token</caption>
      <tbody>{list.map(([id, , p]) => <tr><td class="text"><Token id={id} /></td><td class="barcell"><Bar share={p} /></td><td>{percent(p)}</td></tr>)}</tbody>
    </table>
  );
}

/** The text, each token by how much likelier or unlikelier it became: orange and blue, and a line above or below. */
function Shift({ text, delta, kl }: { text: Tokenwise; delta: (number | null)[]; kl: (number | null)[] }) {
  const all = pieces(text.ids);
  // delta[n] is of the token after position n
  const change = text.ids.map((_, at) => (at ? (delta[at - 1] ?? 0) : 0));
  const most = Math.abs(farthest(change)) || 1;
  return (
    <figure>
      <p class="text-box" dir="auto">
        {all.map((piece) => {
          const value = farthest(change.slice(piece.from, piece.to + 1));
          const kind = Math.abs(value) < most / 50 ? "" : heat(value / most);
          return <span class={kind || undefined} title={`Δ log p ${signed(value)}; KL before it ${fixed(kl[piece.from - 1], 3)}`}><Parts parts={piece.parts} spaces={blank(piece)} /></span>;
        })}
      </p>
      <figcaption>Each token of the text: orange became likelier, blue with a line above less likely; up to {fixed(most, 2)} nats.</figcaption>
    </figure>
  );
}
