// With a server: any text, all its features, and what changes when features are changed.
import { useEffect, useState } from "preact/hooks";
import { type Change, type Prompted, prompt } from "./api";
import { useIndex } from "./data";
import { Failure, Kicker, Over, Small } from "./parts";
import { Builtins, tokensRead, useBuiltins } from "./prompts";
import { route } from "./route";
import { Steer } from "./steer";
import { useTask } from "./task";
import { Reading, type Tokenwise } from "./texts";
import type { Member } from "./types";

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
  const { value: index } = useIndex(member);
  const { value: all } = useBuiltins(member);
  const { query } = route.use();
  const given = query.get("steer");
  const [text, setText] = useState(lastText);
  const [found, setFound] = useState<{ of: string; member: string; text: Tokenwise; truncated: boolean }>();
  const { busy, error, run } = useTask();
  const [at, setAt] = useState(0);
  const [changes, setChanges] = useState<Change[]>(given ? [{ feature: Number(given), kind: "add", strength: 1 }] : []);
  useEffect(() => void (lastText = text), [text]);
  const ask = (of = text) => of && run(async () => {
    const said = await prompt(member.name, of);
    setFound({ of, member: member.name, text: asText(said), truncated: said.truncated });
    setAt(said.tokens.length - 1);
  });
  const add = (i: number, kind: Change["kind"]) =>
    setChanges([...changes.filter((change) => change.feature !== i), { feature: i, kind, strength: 1 }]);
  const shown = found?.member === member.name ? found : undefined;
  return (
    <main class="wide">
      <Kicker>{member.name} · {member.hook}</Kicker>
      <h1>Prompt</h1>
      <Over member={member}> Values of your text: from the model, now.</Over>
      {all && <Builtins {...{ all }} value={all.findIndex((one) => one.text === text)} set={(n) => (setText(all[n].text), void ask(all[n].text))} />}
      <form class="prompt" onSubmit={(event) => (event.preventDefault(), void ask())}>
        <label for="prompt">A text; at most 512 tokens are read</label>
        <textarea id="prompt" rows={4} dir="auto" value={text} spellcheck={false} onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => event.key === "Enter" && (event.ctrlKey || event.metaKey) && (event.preventDefault(), void ask())} />
        <p class="under"><button class="main" type="submit" disabled={!text || busy}>{busy ? "Reading …" : "Show its features"}</button> <Small>or Ctrl Enter</Small></p>
      </form>
      <Failure error={error} />
      {shown && (
        <Reading {...{ member, index }} text={shown.text} at={Math.min(at, shown.text.ids.length - 1)} choose={setAt} first={-1}
          said={tokensRead(shown.text.ids, shown.truncated)}
          act={(i) => <button onClick={() => add(i, "ablate")} aria-label={`change feature ${i}`}>change</button>} />
      )}
      <Steer {...{ member, index, text, changes, setChanges }} at={shown?.of === text ? at : null} shown={shown?.of === text ? shown.text : undefined} />
    </main>
  );
}
