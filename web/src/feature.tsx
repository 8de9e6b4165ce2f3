// One feature: its examples, and beside them what it writes, what it stands near, and where it fires.
import { useEffect, useRef, useState } from "preact/hooks";
import { moreExamples } from "./api";
import { featureKey, filled, load, manifest, saidKey, useData, useIndex } from "./data";
import { Inspector, Rows, looked, repeats } from "./examples";
import { CountIn, counted, countedIn, type In } from "./leftout";
import { fixed, many, percent, short, whole } from "./format";
import { focusOn, useKeys } from "./keys";
import { notes, trouble, write } from "./notes";
import { beside, choices, orderOf, places } from "./order";
import { Aside, Below } from "./panels";
import { Failure, Head, None, Options, Over, Remark, Said, Small, Switch, Waiting } from "./parts";
import { go, link, route, setQuery, toFeature, toMember } from "./route";
import { store } from "./store";
import { useTask } from "./task";
import type { Band, Description, Descriptions, Feature, Index, Member, Window } from "./types";

export type Tab = "top" | "uniform" | "value" | "mass" | "near" | "silent";
const TABS: [Tab, string, string][] = [
  ["top", "top", "Where it fires hardest, one line a sequence."],
  ["uniform", "uniform", "Drawn at random from all its firings: what the feature mostly is."],
  ["value", "by value", "Five bands of equal width between 0 and its maximum, drawn at random within each."],
  ["mass", "by mass", "Five bands that each hold a fifth of its summed activation, drawn at random within each."],
  ["near", "near misses", "Its favourite token, in places where it stays silent."],
  ["silent", "silent", "Places drawn at random where it does not fire."],
];
/** How examples are drawn: kept while one walks from feature to feature. */
export const drawn = store<{ context: number; perRow: boolean; marks: boolean }>({ context: 16, perRow: false, marks: true });

export function FeaturePage({ member, i }: { member: Member; i: number }) {
  const { value: page, error } = useData<Feature[]>(i < member.features ? featureKey(member, i) : null);
  const { value: index } = useIndex(member);
  const { value: said } = useData<Descriptions>(saidKey(member));
  choices.use();
  const all = notes.use();
  const order = index ? orderOf(member.name, index) : null;
  const feature = filled(page, i);
  const before = order && beside(order, i, -1);
  const after = order && beside(order, i, 1);
  const where = order ? order.indexOf(i) : -1;
  const note = all[`${member.name}/${i}`];
  const { query } = route.use();
  const tab = (TABS.find(([key]) => key === query.get("tab"))?.[0] ?? "top") as Tab;
  const setTab = (key: Tab) => setQuery({ tab: key === "top" ? null : key });
  const to = (next: number | null) => next !== null && go(toFeature(member.name, next) + (tab === "top" ? "" : `?tab=${tab}`));
  const star = () => write(member.name, i, { star: !note?.star });
  useEffect(() => looked.set(null), [member.name, i]);
  useEffect(() => void (where >= 0 && places.set(member.name, where)), [where]);
  useEffect(() => {
    if (after !== null && after !== undefined) load(featureKey(member, after)).catch(() => undefined); // its own view will say so
  }, [after]);
  useKeys({
    j: () => to(after), k: () => to(before), s: star, n: () => focusOn("#note"),
    ...Object.fromEntries(TABS.map(([key], n) => [String(n + 1), () => setTab(key)])),
  });
  if (i >= member.features || (page && !feature))
    return <main><h1>No feature {i}</h1><p>{member.name} has features 0 to {member.features - 1}.</p><p><a href={toMember(member.name)}>All features</a></p></main>;
  return (
    <main class="wide">
      <Head kicker={<><a href={toMember(member.name)}>{member.name}</a> · {member.hook}{where >= 0 && ` · ${whole(where + 1)} of ${whole(order!.length)} listed`}</>} title={`Feature ${i}`}>
        <nav class="walk" aria-label="Features">
          <button onClick={() => to(before)} disabled={before === null} aria-label="Previous feature in the list">‹ previous</button>
          <button onClick={() => to(after)} disabled={after === null} aria-label="Next feature in the list">next ›</button>
          <button onClick={star} aria-pressed={!!note?.star}>{note?.star ? "★ starred" : "☆ star"}</button>
          {manifest().server && <a class="button" href={`${link("m", member.name, "prompt")}?steer=${i}`}>steer</a>}
        </nav>
      </Head>
      {feature && said?.[i] && <Described {...said[i]} />}
      {feature?.label && <p class={said?.[i] ? "note" : "lead"}><Said text={feature.label} /></p>}
      <Failure error={error} />
      {feature ? <Body key={`${member.name}/${i}`} {...{ member, feature, index, tab, setTab }} /> : !error && <Waiting />}
    </main>
  );
}

/** A sentence of a model's, with what shows whether it is worth anything. */
function Described({ text, model, ...scores }: Description) {
  return (
    <>
      <p class="lead"><Said text={text} /></p>
      <Remark>
        Described by <Said text={model} />;{(["detection", "fuzzing"] as const).map((kind) => {
          const score = scores[kind];
          return score && <> {kind} <b>{fixed(score.accuracy)}</b> ± {fixed(score.se)} (n {score.n});</>;
        })} {scores.detection || scores.fuzzing ? "0.5 is chance" : "no score: too few examples"}
      </Remark>
    </>
  );
}

function Body({ member, feature, index, tab, setTab }: { member: Member; feature: Feature; index: Index | undefined; tab: Tab; setTab: (tab: Tab) => void }) {
  const fired = feature.firings > 0;
  const more = counted(member, feature, countedIn.use());
  const { firings, density, max, mean, tokens, words } = more;
  return (
    <>
      <p class="facts-line">
        {firings ? (
          <>fires on <b>{percent(density)}</b> of {words && `${whole(tokens)} `}tokens ({whole(firings)} times) · largest <b>{short(max)}</b> · mean {short(mean)}{!words && <>{feature.std ? ` ± ${short(feature.std)}` : ""}{feature.q && ` · median ${short(feature.q[0])} · 99 % below ${short(feature.q[2])}`}</>}</>
        ) : (
          <>never fired on these {whole({ ...manifest().tokens, ...member.tokens }.counted)} tokens</>
        )}
      </p>
      <Over member={member} />
      <CountIn {...{ member, words }} />
      <div class="columns-2">
        <section class="examples" aria-label="Examples">
          {firings ? <Examples {...{ member, feature, tab, setTab, more }} /> : <None>It never fires, so it has no examples. What it would write is beside.</None>}
          <NoteBox member={member} i={feature.i} />
          <Below member={member} feature={feature} index={index} />
        </section>
        <Aside feature={feature} bands={tab === "mass" ? "mass" : "value"} more={more} fired={fired} />
      </div>
    </>
  );
}

function Examples({ member, feature, tab, setTab, more }: { member: Member; feature: Feature; tab: Tab; setTab: (tab: Tab) => void; more: In }) {
  const { context, perRow, marks } = drawn.use();
  const set = (part: object) => drawn.set({ ...drawn.get(), ...part });
  const found = tab === "top" ? more.top : feature.groups[tab] ?? [];
  const bands = [...found].sort((a, b) => ("low" in a && "low" in b ? b.low - a.low : 0));
  const all = bands.flatMap((one) => ("windows" in one ? one.windows : one));
  const again = repeats(all);
  const words = TABS.find(([key]) => key === tab)!;
  const rows = (windows: Window[], label: string) => <Rows {...{ member: member.name, windows, max: more.max, context, perRow, label }} again={repeats([...new Set([...all, ...windows])])} />;
  const tabKey = (event: KeyboardEvent) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key as string];
    if (!step) return;
    const next = (TABS.findIndex(([key]) => key === tab) + step + TABS.length) % TABS.length;
    setTab(TABS[next][0]);
    document.getElementById(`tab-${TABS[next][0]}`)?.focus();
  };
  return (
    <>
      <div class="tabs" role="tablist" aria-label="Which examples" onKeyDown={tabKey}>
        {TABS.map(([key, name]) => (
          <button role="tab" id={`tab-${key}`} aria-selected={key === tab} aria-controls="examples" tabIndex={key === tab ? 0 : -1} onClick={() => setTab(key)}>{name}</button>
        ))}
      </div>
      <div id="examples" role="tabpanel" aria-labelledby={`tab-${tab}`} class={marks ? "" : "plain"}>
        <Remark>{words[2]}{again.size > 0 && ` Grey: ${many(again.size, "row")} with the text of a row above.`}</Remark>
        <Options>
          <Switch label="context" value={context} options={[[8, "8"], [16, "16"], [Infinity, "all"]]} set={(value) => set({ context: value })} />
          <Switch label="colour by" value={perRow ? "row" : "feature"} options={[["feature", "feature"], ["row", "row"]]} set={(value) => set({ perRow: value === "row" })} />
          <Switch label="white space" value={marks ? "on" : "off"} options={[["on", "on"], ["off", "off"]]} set={(value) => set({ marks: value === "on" })} />
        </Options>
        {found.length === 0 && <None>There are none.</None>}
        {tab === "value" || tab === "mass"
          ? (bands as Band[]).map((band) => (
              <div class="band-block">
                <h3>{short(band.low)} to {short(band.high)} <Small>{percent(band.firings)} of its firings, {percent(band.mass)} of its activation</Small></h3>
                {band.windows.length ? rows(band.windows, `Values from ${short(band.low)} to ${short(band.high)}`) : <None>No firings in this band.</None>}
              </div>
            ))
          : found.length > 0 && rows(found as Window[], words[1])}
        {(tab === "top" || tab === "uniform") && manifest().server && <More {...{ member, feature, tab, rows }} from={found.length} />}
      </div>
      <Inspector />
    </>
  );
}

/** Further examples out of the store, when there is a server. */
function More({ member, feature, tab, from, rows }: { member: Member; feature: Feature; tab: "top" | "uniform"; from: number; rows: (windows: Window[], label: string) => preact.JSX.Element }) {
  const [got, setGot] = useState<{ tab: string; windows: Window[]; done: boolean }>({ tab, windows: [], done: false });
  const { error, run } = useTask();
  const mine = got.tab === tab ? got : { tab, windows: [], done: false };
  const ask = () => run(async () => {
    const windows = await moreExamples(member.name, feature.i, from + mine.windows.length, tab);
    setGot({ tab, windows: [...mine.windows, ...windows], done: windows.length === 0 });
  });
  return (
    <>
      {mine.windows.length > 0 && rows(mine.windows, "More examples")}
      <Failure error={error} />
      {mine.done ? <Remark>There are no more.</Remark> : <p class="under"><button onClick={ask}>More examples</button></p>}
    </>
  );
}

export function NoteBox({ member, i }: { member: Member; i: number }) {
  const note = notes.use()[`${member.name}/${i}`];
  const problem = trouble.use();
  const box = useRef<HTMLTextAreaElement>(null);
  return (
    <div class="note-box">
      <label for="note">Note on feature {i}</label>
      <textarea id="note" ref={box} rows={3} dir="auto" value={note?.text ?? ""} placeholder="What is it? Where does it fail?" onInput={(event) => write(member.name, i, { text: event.currentTarget.value })} />
      <Remark>{problem || <>Kept in this browser, for this run. {many(Object.keys(notes.get()).length, "note")}: <a href={link("notes")}>see, export, import</a></>}</Remark>
    </div>
  );
}
