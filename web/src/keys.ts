// One-letter keys. A view adds its own while it is drawn; the newest wins.
import { useEffect, useRef } from "preact/hooks";
import { store } from "./store";

export type Keys = Record<string, () => void>;
const stack: { keys: Keys }[] = [];

const OFF = "unmix/keys-off";
function read(): boolean {
  try {
    return localStorage.getItem(OFF) !== "1";
  } catch {
    return true;
  }
}

/** Letters can be turned off, for people who speak to their computer. */
export const lettersOn = store(read());
export function setLetters(on: boolean): void {
  lettersOn.set(on);
  try {
    on ? localStorage.removeItem(OFF) : localStorage.setItem(OFF, "1");
  } catch {
    // kept for this visit only
  }
}

/** The browser's own keys are left to it. */
export const modified = (event: KeyboardEvent) => event.ctrlKey || event.metaKey || event.altKey;

export function useKeys(keys: Keys): void {
  const entry = useRef({ keys }).current;
  entry.keys = keys;
  useEffect(() => {
    stack.push(entry);
    return () => void stack.splice(stack.indexOf(entry), 1);
  }, []);
}

const writing = (target: EventTarget | null) =>
  target instanceof HTMLElement && target.matches("input:not([type=checkbox]):not([type=radio]), textarea, select");
/** What Enter presses by itself. */
const pressed = ({ key, target }: KeyboardEvent) => key === "Enter" && target instanceof HTMLElement && target.matches("a, button");

addEventListener("keydown", (event) => {
  if (modified(event) || event.isComposing) return;
  if (event.key === "Escape" && writing(event.target)) {
    event.preventDefault(); // a search would be emptied
    return (event.target as HTMLElement).blur();
  }
  if (writing(event.target) || pressed(event) || !lettersOn.get() || document.querySelector("dialog[open]")) return;
  for (let at = stack.length - 1; at >= 0; at--) {
    const act = stack[at].keys[event.key];
    if (act) {
      event.preventDefault();
      return act();
    }
  }
});

/** Takes the focus where nothing on the page has it, so that arrow keys work at once. */
export function claim(element: HTMLElement | null): void {
  if (document.activeElement?.matches("body, main")) element?.focus({ preventScroll: true });
}

export function focusOn(selector: string): void {
  const found = document.querySelector<HTMLElement>(selector);
  found?.focus();
  found?.scrollIntoView({ block: "nearest" });
  if (found instanceof HTMLInputElement) found.select();
}
