// Features ablated, held or added: the text as the model reads it then, and what it writes, beside the plain one.
import { useState } from "preact/hooks";
import { type Change, type Intervened, type Next, intervene } from "./api";
import { farthest, heat } from "./examples";
import { fixed, percent, short, signed } from "./format";
import { Bar, Bars, Failure, Filled, Options, Pick, Remark, Spans, Switch, Token, Words } from "./parts";
import { useTask } from "./task";
import { type Piece, pieces } from "./text";
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
  const { busy, error, run } = useTask();
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
  const ask = () => run(() => {
    const where = here === "here" && at !== null ? at : "all";
    return intervene({ member: member.name, text, changes, where, ...options }, (answer) => setSaid({ of: text, answer }));
  });
  return (
    <section class="steer" aria-labelledby="steer-title">
      <h2 id="steer-title">Change features</h2>
      <Remark>Strengths are in units of the feature's largest value on the counted tokens. The dictionary's error is kept: {member.hook_out ? `y + Δf · d at ${member.hook_out}` : "x + Δf · d"}.</Remark>
      {changes.length > 0 && (
        <Bars kind="changes">
            {changes.map((change, n) => (
              <tr>
                <Words>{change.feature}</Words>
                <Filled ids={index?.tokens[change.feature]} />
                <Words><Pick label={`What to do with feature ${change.feature}`} value={change.kind} options={KINDS} set={(kind) => edit(n, { kind })} /></Words>
                <td>{change.kind !== "ablate" && <label class="field"><input type="number" step={0.25} value={change.strength} aria-label={`strength of feature ${change.feature}`} onInput={(event) => edit(n, { strength: event.currentTarget.valueAsNumber || 0 })} /> × {index?.max[change.feature] ? short(index.max[change.feature]) : "max"}</label>}</td>
                <td><button onClick={() => setChanges(changes.filter((_, k) => k !== n))} aria-label={`remove feature ${change.feature}`}>remove</button></td>
              </tr>
            ))}
        </Bars>
      )}
      <form class="options" onSubmit={(event) => (event.preventDefault(), put())}>
        <label class="field">feature <input inputMode="numeric" pattern="[0-9]*" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} /></label>
        <button>add to the changes</button>
      </form>
      <Options>
        <Switch label="where" value={here} options={[["all", "every position"], ["here", at === null ? "the chosen token" : `position ${at}`]]} set={setHere} />
        {number("generate", "tokens to write", 1, 128)}
        {number("temperature", "temperature", 0.1, 2)}
        {number("seed", "seed", 1, 999999)}
        <button class="main" disabled={!text || !changes.length || busy} onClick={ask}>{busy ? "Running …" : "Run plain and changed"}</button>
      </Options>
      <Failure error={error} />
      {said && <Answer answer={said.answer} shown={said.of === text ? shown : undefined} busy={busy} />}
    </section>
  );
}

function Answer({ answer, shown, busy }: { answer: Intervened; shown: Tokenwise | undefined; busy: boolean }) {
  const { generated, next, kl, delta_logp } = answer;
  const kls = kl.filter((x): x is number => x !== null);
  return (
    <div aria-live="polite" aria-busy={busy}>
      <Remark>KL from plain to changed, mean over positions: {short(kls.reduce((sum, x) => sum + x, 0) / Math.max(1, kls.length))} nats.{answer.cut && " Fewer tokens were written than asked for: the model takes no more."}</Remark>
      {shown && <Shift text={shown} delta={delta_logp} kl={kl} />}
      <div class="columns-2 even">
        {(["plain", "changed"] as const).map((side) => (
          <section aria-label={side}>
            <h3>{side}</h3>
            {generated[side].length > 0 && <p class="text-box" dir="auto"><Spans of={pieces(generated[side].map((token) => token.id))} /></p>}
            <NextTable list={next[side]} />
          </section>
        ))}
      </div>
    </div>
  );
}

function NextTable({ list }: { list: Next[] }) {
  return (
    <Bars caption="next token">{list.map(([id, , p]) => <tr><Words><Token id={id} /></Words><Bar share={p} /><td>{percent(p)}</td></tr>)}</Bars>
  );
}

/** The text, each token by how much likelier or unlikelier it became: orange and blue, and a line above or below. */
function Shift({ text, delta, kl }: { text: Tokenwise; delta: (number | null)[]; kl: (number | null)[] }) {
  // delta[n] is of the token after position n
  const change = text.ids.map((_, at) => (at ? (delta[at - 1] ?? 0) : 0));
  const most = Math.abs(farthest(change)) || 1;
  const of = (piece: Piece) => farthest(change.slice(piece.from, piece.to + 1));
  return (
    <figure>
      <p class="text-box" dir="auto">
        <Spans of={pieces(text.ids)} kind={(piece) => (Math.abs(of(piece)) < most / 50 ? "" : heat(of(piece) / most))} title={(piece) => `Δ log p ${signed(of(piece))}; KL before it ${fixed(kl[piece.from - 1], 3)}`} />
      </p>
      <figcaption>Each token of the text: orange became likelier, blue with a line above less likely; up to {fixed(most, 2)} nats.</figcaption>
    </figure>
  );
}
