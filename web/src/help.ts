// The keys and the words, over the page: their text stands in index.html.
import { lettersOn, setLetters } from "./keys";

export function help(): void {
  const box = document.getElementById("help") as HTMLDialogElement, letters = document.getElementById("letters") as HTMLInputElement;
  letters.checked = lettersOn.get();
  letters.onchange = () => setLetters(letters.checked);
  box.onclick = ({ target }) => (target === box || (target as Element).matches("button")) && box.close();
  box.showModal();
}
