// All notes of this run, to read, to take out and to bring in.
import { useState } from "preact/hooks";
import { manifest, member as memberOf } from "./data";
import { many } from "./format";
import { type Import, type Note, exported, merge, notes, parse, trouble } from "./notes";
import { Failure, Kicker, None, Remark } from "./parts";
import { toFeature } from "./route";
import { useTask } from "./task";

/** "MEMBER/12" apart; a member's name may hold a slash. */
const parts = (at: string): [string, number] => [at.slice(0, at.lastIndexOf("/")), Number(at.slice(at.lastIndexOf("/") + 1))];

function byPlace([a]: [string, Note], [b]: [string, Note]): number {
  const [x, i] = parts(a), [y, j] = parts(b);
  return x < y ? -1 : x > y ? 1 : i - j;
}

export function NotesPage() {
  const all = Object.entries(notes.use()).sort(byPlace);
  const problem = trouble.use();
  const [said, setSaid] = useState("");
  const { error, run } = useTask();
  const [foreign, setForeign] = useState<Import>();
  const take = (read: Import) => {
    setForeign(undefined);
    setSaid(`${many(merge(read.notes), "note")} of ${Object.keys(read.notes).length} added or joined; the rest were here.`);
  };
  const read = async (input: HTMLInputElement) => {
    const file = input.files?.[0];
    input.value = "";
    if (!file) return;
    setSaid("");
    await run(async () => {
      const found = parse(await file.text());
      found.same ? take(found) : setForeign(found);
    });
  };
  const save = () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([exported()], { type: "application/json" }));
    link.download = `notes-${manifest().run.replace(/[^\w.-]+/g, "_")}.json`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  };
  return (
    <main>
      <Kicker>{manifest().run}</Kicker>
      <h1>Notes</h1>
      <Remark>They are kept in this browser alone, for this run (fingerprint {manifest().fingerprint.slice(0, 12)}). Export them to share or to keep them; importing adds and never overwrites.</Remark>
      {problem && <p class="failure" role="alert">{problem}</p>}
      <p class="under">
        <button class="main" disabled={!all.length} onClick={save}>Export</button>{" "}
        <label class="button">Import<input class="unseen" type="file" accept="application/json,.json" onChange={(event) => read(event.currentTarget)} /></label>
      </p>
      <Failure error={error} />
      {foreign && (
        <p class="behind" role="alert">
          These notes are of another run ({foreign.run || "no name"}): the same numbers may be other features.{" "}
          <button onClick={() => take(foreign)}>Import all the same</button> <button onClick={() => setForeign(undefined)}>Do not</button>
        </p>
      )}
      <p role="status">{said}</p>
      {all.length === 0 && <None>No notes yet. On the page of a feature, press n.</None>}
      <ul class="notes">
        {all.map(([at, note]) => {
          const [name, i] = parts(at);
          return (
            <li>
              {memberOf(name) ? <a href={toFeature(name, i)}>{i} of {name}</a> : `${i} of ${name}`} {note.star && <span aria-label="starred">★</span>}
              <bdi>{note.text}</bdi>
            </li>
          );
        })}
      </ul>
    </main>
  );
}
