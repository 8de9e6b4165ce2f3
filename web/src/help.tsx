// The keys and the words, over the page.
import { useEffect, useRef } from "preact/hooks";
import { lettersOn, setLetters } from "./keys";
import { manifest } from "./data";

const KEYS: [string, string][] = [
  ["j  k", "next, previous: in the list and, in its order, from feature to feature"],
  ["Enter", "open the feature of the list, or the token that the arrows are on"],
  ["← → ↑ ↓", "move over the tokens of the examples, from row to row"],
  ["1 … 6", "examples: top, uniform, by value, by mass, near misses, silent"],
  ["/", "search the list"],
  ["g", "go to a feature by its index"],
  ["r", "a random feature of the list"],
  ["[  ]", "previous, next dictionary"],
  ["n", "write a note; Escape leaves it"],
  ["s", "star the feature"],
  ["?", "this help"],
];
const WORDS: [string, string][] = [
  ["density", "share of the counted tokens on which a feature fires"],
  ["entropy", "bits of the distribution of tokens on which it fires: 0 for one token only"],
  ["by value, by mass", "the same firings cut twice: at equal widths of the value, and at equal shares of the summed activation"],
  ["near misses", "the token that the feature likes most, where it stays silent"],
  ["logits", "its decoder row through the unembedding: what it writes if nothing else reads it"],
  ["Jaccard", "tokens on which both fire, over tokens on which either does"],
  ["first token, long", "features with most of their activation on position 0, or on the longest 1 % of activations: often artefacts"],
];

export function Help({ close }: { close: () => void }) {
  const box = useRef<HTMLDialogElement>(null);
  const letters = lettersOn.use();
  useEffect(() => box.current!.showModal(), []);
  return (
    <dialog ref={box} onClose={close} aria-labelledby="help-title" onClick={(event) => event.target === box.current && box.current!.close()}>
      <div class="help">
        <header><h2 id="help-title">Keys and words</h2><button type="button" onClick={() => box.current!.close()}>close</button></header>
        <dl class="keys">{KEYS.map(([key, what]) => <div><dt>{key.split(/ +/).map((one) => (one === "…" ? " … " : <kbd>{one}</kbd>))}</dt><dd>{what}</dd></div>)}</dl>
        <label class="tick"><input type="checkbox" checked={letters} onChange={(event) => setLetters(event.currentTarget.checked)} /> keys of one letter</label>
        <dl class="words">{WORDS.map(([word, what]) => <div><dt>{word}</dt><dd>{what}</dd></div>)}</dl>
        <p class="note">Everything is also a button or a link. The darker the orange, the larger the value, on a logarithmic scale; the framed token is the peak. Tokens with a dotted line are left out of all numbers. {manifest().server ? "" : "This folder shows what was kept in it; unmix explore also answers prompts."}</p>
      </div>
    </dialog>
  );
}
