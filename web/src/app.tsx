// The bar above, the view below, and the keys that hold everywhere.
import { useEffect, useState } from "preact/hooks";
import { Compare, compareRoute } from "./compare";
import { loadIndex, manifest, member as memberOf } from "./data";
import { FeaturePage } from "./feature";
import { help } from "./help";
import { claim, focusOn, useKeys } from "./keys";
import { List } from "./list";
import { NotesPage } from "./notesview";
import { orderOf, random } from "./order";
import { Pick, Unseen } from "./parts";
import { PromptPage } from "./prompt";
import { PromptsPage } from "./prompts";
import { go, link, route, toFeature, toMember } from "./route";
import { Sweep } from "./sweep";
import { TextPage, toTexts } from "./texts";
import type { Member } from "./types";

export function App() {
  const { path } = route.use();
  const { members, chosen, run } = manifest();
  const named = path[0] === "m" ? memberOf(path[1]) : undefined;
  const [last, setLast] = useState<Member>(named ?? memberOf(chosen ?? "") ?? members[0]);
  const member = named ?? last;
  useEffect(() => void (named && setLast(named)), [named]);
  useEffect(() => {
    const what = path[0] === "m" ? [path[2] === "f" ? `feature ${path[3]}` : path[2] ?? "features", path[1]] : path[0] ? [path[0]] : [];
    document.title = [...what, run, "unmix"].join(" · ");
    const main = document.querySelector("main");
    main?.setAttribute("tabindex", "-1");
    claim(main);
  }, [path.join("/")]);
  useEffect(() => scrollTo(0, 0), [path[0], path[1], path[2]]); // not from one feature to the next
  const lucky = async () => {
    const index = await loadIndex(member);
    const i = random(orderOf(member.name, index), index);
    if (i !== null) go(toFeature(member.name, i));
  };
  const toOther = (by: number) => {
    const next = members[(members.indexOf(member) + by + members.length) % members.length];
    change(next);
  };
  const change = (next: Member) => {
    setLast(next);
    go(path[0] === "m" && path[2] && path[2] !== "f" ? link("m", next.name, path[2], ...(/^text|^prompts/.test(path[2]) ? path.slice(3) : [])) : toMember(next.name));
  };
  const search = () => {
    if (!document.getElementById("search")) go(toMember(member.name));
    setTimeout(() => focusOn("#search"), 60);
  };
  useKeys({ "/": search, r: lucky, "[": () => toOther(-1), "]": () => toOther(1), g: () => focusOn("#go"), "?": help });
  return (
    <>
      <button class="skip" onClick={() => document.querySelector("main")?.focus()}>Skip to the page</button>
      <Bar {...{ member, change, lucky, search }} path={path} />
      <View path={path} />
    </>
  );
}

function Bar({ member, path, change, lucky, search }: {
  member: Member; path: string[]; change: (member: Member) => void; lucky: () => void; search: () => void;
}) {
  const { members, server, prompts } = manifest();
  const [wanted, setWanted] = useState("");
  const jump = (event: Event) => {
    event.preventDefault();
    if (/^\d+$/.test(wanted.trim())) go(toFeature(member.name, Number(wanted)));
    setWanted("");
    (document.activeElement as HTMLElement | null)?.blur();
  };
  const here = (name: string) => (path[0] === name || (path[0] === "m" && (path[2] ?? "features") === name) ? "page" : undefined);
  const asked = server ? "prompt" : "prompts";
  return (
    <header class="top">
      <nav aria-label="Views">
        <a href="#/" class="home" aria-current={path.length ? undefined : "page"}>unmix</a>
        {members.length > 1 && (
          <Pick label="Dictionary" value={member.name} options={members.map((one) => [one.name, one.name] as const)} set={(name) => change(memberOf(name)!)} />
        )}
        <a href={toMember(member.name)} aria-current={here("features")}>features</a>
        <a href={toTexts(member)} aria-current={here("text")}>texts</a>
        {(server || !!prompts) && <a href={link("m", member.name, asked)} aria-current={here(asked)}>{asked}</a>}
        <a href={link("notes")} aria-current={here("notes")}>notes</a>
      </nav>
      <div class="tools">
        <form onSubmit={jump}><label><Unseen>Go to feature</Unseen><input id="go" inputMode="numeric" placeholder="go to #" autocomplete="off" value={wanted} onInput={(event) => setWanted(event.currentTarget.value)} /></label></form>
        <button onClick={search}>search</button>
        <button onClick={lucky}>random</button>
        <button onClick={help} aria-label="Keys and words">?</button>
      </div>
    </header>
  );
}

function View({ path }: { path: string[] }) {
  if (!path.length) return <Sweep />;
  if (path[0] === "notes") return <NotesPage />;
  const pair = path[0] === "compare" ? compareRoute(path) : null;
  if (pair) return <Compare key={`${pair.a.name} ${pair.b.name}`} {...pair} />;
  const member = path[0] === "m" ? memberOf(path[1]) : undefined;
  const number = (at: number) => (/^\d+$/.test(path[at] ?? "") ? Number(path[at]) : null);
  if (member) {
    if (path.length === 2) return <List key={member.name} member={member} />;
    if (path[2] === "f" && number(3) !== null) return <FeaturePage member={member} i={number(3)!} />;
    if (path[2] === "text") return <TextPage key={member.name} member={member} s={number(3)} position={number(4) ?? 0} />;
    if (path[2] === "prompt" && manifest().server) return <PromptPage key={member.name} member={member} />;
    if (path[2] === "prompts" && manifest().prompts) return <PromptsPage key={member.name} member={member} n={number(3) ?? 0} position={number(4) ?? Infinity} />;
  }
  return <main><h1>Nothing here</h1><p>This address names no view{path[0] === "m" && !member ? `: there is no dictionary ${path[1]}` : ""}.</p><p><a href="#/">All dictionaries</a></p></main>;
}
