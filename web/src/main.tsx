import { render } from "preact";
import { takeToken } from "./api";
import { App } from "./app";
import { begin } from "./data";
import { beginNotes } from "./notes";
import { Failure } from "./parts";

takeToken();
const root = document.getElementById("app")!;

begin().then(
  () => {
    beginNotes();
    render(<App />, root);
  },
  (error: Error) => render(<main><h1>This page has no data</h1><Failure error={error} /></main>, root),
);
