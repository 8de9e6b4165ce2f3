// All features of one member: a table of which only the rows in sight are drawn.
import type { ComponentChildren } from "preact";
import { useEffect, useLayoutEffect, useMemo, useRef, useState } from "preact/hooks";
import { Spark } from "./charts";
import { saidKey, useData, useIndex } from "./data";
import { type Choice, type Column, DENSITIES, ENTROPIES, FIRST, haysOf, KINDS, type Where } from "./filter";
import { fixed, percent, short, whole, within } from "./format";
import { claim, focusOn, modified, useKeys } from "./keys";
import { type Note, notes } from "./notes";
import { choiceOf, choices, choose, orderOf, places } from "./order";
import { Failure, Head, None, Over, Pick, Said, Small, Tokens, Unseen, Waiting } from "./parts";
import { go, route, setQuery, toFeature } from "./route";
import type { Description, Descriptions, Index, Member } from "./types";

const WHERE: [Where, string][] = [["all", "everywhere"], ["index", "index"], ["token", "tokens"], ["logit", "logits"], ["note", "notes"], ["label", "labels, descriptions"]];
const COLUMNS: [Column | null, string, string, string][] = [
  ["index", "feature", "c-index", ""],
  ["density", "density", "c-density", "Share of tokens on which it fires"],
  ["max", "max", "c-max", ""],
  ["mean", "mean", "c-mean", ""],
  ["entropy", "entropy", "c-entropy", "Bits: how mixed the tokens are on which it fires"],
  ["top_share", "top", "c-top", "Share of its firings on its most frequent token"],
  [null, "values", "c-spark", ""],
  [null, "tokens", "c-tokens", "The tokens with most of its activation"],
  [null, "promotes", "c-promotes", "The tokens whose logits it raises most"],
  ["nearest_cos", "nearest", "c-nearest", "The feature with the most similar decoder row, and the cosine"],
  [null, "note or label", "c-note", "Your note, or its description, or its label"],
];
const DEFAULTS = FIRST as unknown as Record<string, string | boolean>;

export function List({ member }: { member: Member }) {
  const { value: index, error } = useIndex(member);
  const { value: said } = useData<Descriptions>(saidKey(member));
  choices.use();
  notes.use();
  useEffect(() => {
    const later = setTimeout(() => index && haysOf(index, said), 300); // before the first search
    return () => clearTimeout(later);
  }, [index, said]);
  const choice = choiceOf(member.name);
  const { query } = route.use();
  useEffect(() => {
    // an address may bring choices: #/m/l0-50?query=def&sort=density&down=1
    const given = Object.fromEntries([...query].filter(([key]) => key in FIRST).map(([key, text]) => [key, key === "down" ? text === "1" : text]));
    if (Object.keys(given).length) choose(member.name, { ...FIRST, ...given });
  }, [member.name]);
  const set = (part: Partial<Choice>) => {
    choose(member.name, part);
    setQuery(Object.fromEntries(Object.entries(part).map(([key, value]) => [key, value === DEFAULTS[key] ? null : value === true ? "1" : String(value)])));
  };
  const order = index ? orderOf(member.name, index) : null;
  const ranges = (all: Record<string, [string, number, number]>, any: string) => [["", any], ...Object.entries(all).map(([key, range]) => [key, range[0]])] as [string, string][];
  return (
    <main class="full">
      <Head kicker={`${member.architecture} · ${member.hook}`} title={`Features of ${member.name}`}>
        <p class="count" role="status">{order && `${whole(order.length)} of ${whole(member.features)}`}</p>
      </Head>
      <Over member={member} />
      <form class="filters" role="search" onSubmit={(event) => (event.preventDefault(), focusOn(".virtual"))}>
        <label class="search">
          <Unseen>Search</Unseen>
          <input id="search" type="search" placeholder='Search: 123, def, " def"' value={choice.query} autocomplete="off" spellcheck={false}
            onInput={(event) => set({ query: event.currentTarget.value })} />
        </label>
        <Pick label="Search where" value={choice.where} options={WHERE} set={(where) => set({ where })} />
        <Pick label="Alive" value={choice.alive} options={[["alive", "alive"], ["all", "alive and silent"], ["never", "never fired"]]} set={(alive) => set({ alive })} />
        <Pick label="Density" value={choice.density} options={ranges(DENSITIES, "any density")} set={(density) => set({ density })} />
        <Pick label="Entropy of tokens" value={choice.entropy} options={ranges(ENTROPIES, "any entropy")} set={(entropy) => set({ entropy })} />
        <Pick label="Kind" value={choice.kind} options={[["", "any kind"], ...Object.entries(KINDS)] as [string, string][]} set={(kind) => set({ kind })} />
        <SortPick choice={choice} set={set} />
      </form>
      <Failure error={error} />
      {index && order ? <Table key={member.name} {...{ member, index, said, order, choice, set }} /> : !error && <Waiting />}
    </main>
  );
}

/** Sorting where the columns' heads do not fit. */
function SortPick({ choice, set }: { choice: Choice; set: (part: Partial<Choice>) => void }) {
  const options = COLUMNS.filter(([key]) => key).flatMap(([key, name]) => [[`${key} 0`, `by ${name} ▲`], [`${key} 1`, `by ${name} ▼`]] as [string, string][]);
  const pick = (text: string) => {
    const [sort, down] = text.split(" ");
    set({ sort: sort as Column, down: down === "1" });
  };
  return <span class="narrow"><Pick label="Order" value={`${choice.sort} ${choice.down ? 1 : 0}`} options={options} set={pick} /></span>;
}

function Table({ member, index, said, order, choice, set }: {
  member: Member; index: Index; said: Descriptions | undefined; order: Int32Array; choice: Choice; set: (part: Partial<Choice>) => void;
}) {
  const box = useRef<HTMLDivElement>(null);
  const [at, setAt] = useState(places.get(member.name) ?? 0);
  const [view, setView] = useState({ top: 0, height: 800, row: 36 });
  const current = Math.min(at, order.length - 1);
  useLayoutEffect(() => {
    const element = box.current!;
    const measure = () => {
      const row = parseFloat(getComputedStyle(element).getPropertyValue("--row")) || 36;
      setView({ top: element.scrollTop, height: element.clientHeight, row });
    };
    measure();
    element.scrollTop = current * view.row - element.clientHeight / 3;
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    claim(element);
    return () => observer.disconnect();
  }, []);
  const first = useRef(true);
  useEffect(() => {
    if (first.current) return void (first.current = false);
    setAt(0);
    box.current!.scrollTop = 0;
  }, [choice]);
  useEffect(() => void places.set(member.name, current), [current]);
  const move = (to: number) => {
    const next = within(to, 0, order.length - 1);
    setAt(next);
    const element = box.current!, top = next * view.row, bottom = top + view.row + 36; // the head covers so much
    element.scrollTop = within(element.scrollTop, bottom - element.clientHeight, top);
  };
  const open = () => current >= 0 && go(toFeature(member.name, order[current]));
  useKeys({ j: () => move(current + 1), k: () => move(current - 1), Enter: open });
  const page = Math.max(1, Math.floor(view.height / view.row) - 2);
  const key = (event: KeyboardEvent) => {
    const to = { ArrowDown: current + 1, ArrowUp: current - 1, PageDown: current + page, PageUp: current - page, Home: 0, End: order.length - 1 }[event.key];
    if (to === undefined || modified(event)) return;
    event.preventDefault();
    move(to);
  };
  const from = Math.max(0, Math.floor(view.top / view.row) - 5);
  const to = Math.min(order.length, Math.ceil((view.top + view.height) / view.row) + 5);
  const sortBy = (key: Column) => set(choice.sort === key ? { down: !choice.down } : { sort: key, down: key !== "index" });
  return (
    <div class="virtual" ref={box} tabIndex={0} role="region" aria-label={`Features of ${member.name}: j and k or the arrows move, Enter opens`}
      onScroll={(event) => setView({ ...view, top: event.currentTarget.scrollTop })} onKeyDown={key}>
      <div role="table" aria-rowcount={order.length + 1} aria-label="Features">
        <div class="head" role="row" aria-rowindex={1}>
          {COLUMNS.map(([column, name, kind, title]) => (
            <span role="columnheader" class={kind} title={title || undefined} aria-sort={column && choice.sort === column ? (choice.down ? "descending" : "ascending") : undefined}>
              {column ? <button onClick={() => sortBy(column)}>{name}</button> : name}
            </span>
          ))}
        </div>
        <div class="body" role="rowgroup" style={{ height: `${order.length * view.row}px` }}>
          {Array.from(order.subarray(from, to), (i, n) => ( // keyed by place: a search fills the rows that are there
            <ListRow key={(from + n) % 256} {...{ member, index, i }} said={said?.[i]} n={from + n} top={(from + n) * view.row} current={from + n === current} />
          ))}
        </div>
      </div>
      {order.length === 0 && <None>No feature passes. Change the search or the filters.</None>}
    </div>
  );
}

function ListRow({ member, index, said, i, n, top, current }: { member: Member; index: Index; said: Description | undefined; i: number; n: number; top: number; current: boolean }) {
  const note = notes.get()[`${member.name}/${i}`];
  const href = toFeature(member.name, i);
  const cells = useMemo(() => <Cells {...{ member, index, said, i, note, href }} />, [index, said, i, note]); // scrolling draws no row anew
  return (
    <div class={current ? "row current" : "row"} role="row" aria-rowindex={n + 2} aria-current={current ? "true" : undefined} style={{ transform: `translateY(${top}px)` }} onClick={(event) => (event.target as Element).closest("a") || go(href)}>
      {cells}
    </div>
  );
}

const Cell = ({ of, children }: { of: string; children: ComponentChildren }) => <span role="cell" class={`c-${of}`}>{children}</span>;

function Cells({ member, index, said, i, note, href }: { member: Member; index: Index; said: Description | undefined; i: number; note: Note | undefined; href: string }) {
  const near = index.nearest[i];
  return (
    <>
      <Cell of="index"><a href={href}>{i}</a></Cell>
      <Cell of="density">{percent(index.density[i])}</Cell>
      <Cell of="max">{short(index.max[i])}</Cell>
      <Cell of="mean">{short(index.mean[i])}</Cell>
      <Cell of="entropy">{fixed(index.entropy[i], 1)}</Cell>
      <Cell of="top">{percent(index.top_share[i])}</Cell>
      <Cell of="spark"><Spark heights={index.spark[i]} /></Cell>
      <Cell of="tokens"><Tokens ids={index.tokens[i]} /></Cell>
      <Cell of="promotes"><Tokens ids={index.promotes[i]} /></Cell>
      <Cell of="nearest">{near >= 0 ? <><a href={toFeature(member.name, near)}>{near}</a> <Small>{fixed(index.nearest_cos[i])}</Small></> : "–"}</Cell>
      <Cell of="note">{note?.star && <span aria-label="starred">★ </span>}{note?.text ? <bdi>{note.text}</bdi> : <Said note text={said?.text ?? index.label[i]} />}</Cell>
    </>
  );
}
