// Something that takes a while and may fail: one at a time.
import { useState } from "preact/hooks";

export interface Task {
  busy: boolean;
  error: Error | undefined; // of the last one
  run(act: () => Promise<void>): Promise<void>;
}

export function useTask(): Task {
  const [busy, setBusy] = useState(false);
  const [error, setError] = useState<Error>();
  return {
    busy, error,
    async run(act) {
      if (busy) return;
      setBusy(true);
      setError(undefined);
      await act().catch(setError);
      setBusy(false);
    },
  };
}
