// With a server: any text, all its features, and what changes when features are changed.
import { useEffect, useState } from "preact/hooks";
import { type Change, type Prompted, prompt } from "./api";
import { indexKey, useData } from "./data";
import { many } from "./format";
import { Failure, Over, Switch } from "./parts";
import { route } from "./route";
import { Steer } from "./steer";
import { type By, FeaturesOf, TokenText, type Tokenwise } from "./texts";
import type { Index, Member } from "./types";

const asText = (said: Prompted): Tokenwise => ({
  ids: said.tokens.map((token) => token.id),
  norm: said.tokens.map((token) => token.norm),
  err: said.tokens.map((token) => token.err),
  masked: new Set(said.tokens.flatMap((token, at) => (token.masked ? [at] : []))),
  f: said.tokens.map((token) => token.f),
  more: said.tokens.map((token) => token.more ?? 0),
});

let lastText = "";

export function PromptPage({ member }: { member: Member }) {
  const { value: index } = useData<Index>(indexKey(member));
  const { query } = route.use();
  const given = query.get("steer");
  const [text, setText] = useState(lastText);
  const [found, setFound] = useState<{ of: string; member: string; text: Tokenwise; truncated: boolean }>();
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  const [at, setAt] = useState(0);
  const [by, setBy] = useState<By>("norm");
  const [feature, setFeature] = useState(-1);
  const [changes, setChanges] = useState<Change[]>(given ? [{ feature: Number(given), kind: "add", strength: 1 }] : []);
  useEffect(() => void (lastText = text), [text]);
  const ask = async () => {
    if (!text || busy) return;
    setBusy(true);
    setError(undefined);
    try {
      const said = await prompt(member.name, text);
      setFound({ of: text, member: member.name, text: asText(said), truncated: said.truncated });
      setAt(said.tokens.length - 1);
    } catch (problem) {
      setError(problem as Error);
    } finally {
      setBusy(false);
    }
  };
  const add = (i: number, kind: Change["kind"]) =>
    setChanges([...changes.filter((change) => change.feature !== i), { feature: i, kind, strength: 1 }]);
  const shown = found?.member === member.name ? found : undefined;
  return (
    <main class="wide">
      <p class="kicker">{member.name} · {member.hook}</p>
      <h1>Prompt</h1>
      <Over member={member}> Values of your own text: from the model, here and now.</Over>
      <form class="prompt" onSubmit={(event) => (event.preventDefault(), void ask())}>
        <label for="prompt">A text; at most 512 tokens are read</label>
        <textarea id="prompt" rows={4} dir="auto" value={text} spellcheck={false} onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && (event.preventDefault(), void ask())} />
        <p class="under"><button class="main" type="submit" disabled={!text || busy}>{busy ? "Reading …" : "Show its features"}</button> <span class="note">or Ctrl Enter</span></p>
      </form>
      <Failure error={error} />
      {shown && (
        <div class="columns-2 even">
          <section aria-label="Text">
            <div class="options">
              <Switch label="colour by" value={by} options={[["norm", "‖x‖"], ["error", "error"], ...(feature >= 0 ? [["feature", `feature ${feature}`] as const] : [])]} set={setBy} />
            </div>
            <TokenText text={shown.text} at={at} by={by} feature={feature} choose={setAt} />
            <p class="note">{many(shown.text.ids.length, "token")}{shown.truncated ? "; the rest was cut off" : ""}. Press a token, or move with the arrow keys.</p>
          </section>
          <FeaturesOf member={member} index={index} text={shown.text} at={Math.min(at, shown.text.ids.length - 1)} feature={feature}
            look={(i) => (setFeature(i), setBy("feature"))}
            act={(i) => <button type="button" onClick={() => add(i, "ablate")} aria-label={`change feature ${i}`}>change</button>} />
        </div>
      )}
      <Steer {...{ member, index, text, changes, setChanges }} at={shown?.of === text ? at : null} shown={shown?.of === text ? shown.text : undefined} />
    </main>
  );
}
