// Builds the page: node build.mjs [FOLDER]; the folder is ../src/unmix/explore/site unless another is named.
import { copyFile, mkdir } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = path.dirname(fileURLToPath(import.meta.url));
const out = path.resolve(process.argv[2] ?? path.join(here, "../src/unmix/explore/site"));
await mkdir(out, { recursive: true });
const common = { absWorkingDir: here, bundle: true, minify: true, sourcemap: false, legalComments: "none", charset: "utf8", logLevel: "warning" };
await build({ ...common, entryPoints: ["src/main.tsx"], outfile: path.join(out, "app.js"), format: "iife", target: "es2020", jsx: "transform", jsxFactory: "jsxElement", jsxFragment: "jsxFragment", inject: ["src/jsx.ts"], tsconfigRaw: {} });
await build({ ...common, entryPoints: ["src/app.css"], outfile: path.join(out, "app.css"), target: ["chrome110", "firefox113", "safari16.4"] });
await copyFile(path.join(here, "src/index.html"), path.join(out, "index.html"));
