import { render } from "preact";
import { takeToken } from "./api";
import { App } from "./app";
import { begin } from "./data";
import { beginNotes } from "./notes";

takeToken();
const root = document.getElementById("app")!;

begin().then(
  () => {
    beginNotes();
    render(<App />, root);
  },
  (error: Error) => render(<main><h1>This page has no data</h1><p class="failure" role="alert">{error.message}</p></main>, root),
);
