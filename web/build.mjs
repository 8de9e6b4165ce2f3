// Builds the page: node build.mjs [FOLDER]; the folder is ../src/unmix/explore/site unless another is named.
import { copyFile, mkdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const out = path.resolve(process.argv[2] ?? path.join(here, "../src/unmix/explore/site"));
await mkdir(out, { recursive: true });
const common = { absWorkingDir: here, bundle: true, minify: true, sourcemap: false, legalComments: "none", charset: "utf8", logLevel: "warning" };
// names of ours that no file, answer, address or browser knows: shortened, for the page is to stay under 80 KB
const own = "perRow options strong words parts anchor family position again setTab setChanges heads said look choose tick choice ends bands twin index shown names lines dots shares heights mark peak path use caption scale pieces hays kicker";
// names of Preact's for classes, of which the page has none; and Preact's private ones, of which some are set on elements of the page
const preacts = "shouldComponentUpdate getDerivedStateFromProps getDerivedStateFromError getSnapshotBeforeUpdate getChildContext componentWillMount componentDidMount componentWillReceiveProps componentWillUpdate componentDidUpdate componentWillUnmount componentDidCatch debounceRendering defaultProps contextType setState forceUpdate __[A-Za-z]?";
const mangleProps = new RegExp(`^(${own} ${preacts})$`.replaceAll(" ", "|"));
await build({ ...common, mangleProps, entryPoints: ["src/main.tsx"], outfile: path.join(out, "app.js"), format: "iife", target: "es2021", jsx: "transform", jsxFactory: "jsxElement", jsxFragment: "jsxFragment", inject: ["src/jsx.ts"], tsconfigRaw: {} });
await build({ ...common, entryPoints: ["src/app.css"], outfile: path.join(out, "app.css"), target: ["chrome110", "firefox113", "safari16.4"] });
await copyFile(path.join(here, "src/index.html"), path.join(out, "index.html"));
