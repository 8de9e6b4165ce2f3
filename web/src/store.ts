import { useEffect, useState } from "preact/hooks";

/** A value that components can watch. */
export interface Store<T> {
  get(): T;
  set(value: T): void;
  use(): T;
}

export function store<T>(first: T): Store<T> {
  let now = first;
  const watchers = new Set<(value: T) => void>();
  return {
    get: () => now,
    set(value) {
      if (Object.is(now, value)) return;
      now = value;
      for (const watcher of [...watchers]) watcher(value);
    },
    use() {
      const [seen, setSeen] = useState(() => ({ value: now }));
      useEffect(() => {
        const watcher = (value: T) => setSeen({ value });
        watchers.add(watcher);
        if (!Object.is(seen.value, now)) watcher(now); // it changed between drawing and watching
        return () => void watchers.delete(watcher);
      }, []);
      return seen.value;
    },
  };
}
