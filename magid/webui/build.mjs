// Bundles the page: `node build.mjs NODE_MODULES FOLDER` writes index.html and assets/ into FOLDER,
// which does not exist yet. Each name has a hash of its content, so that it may be kept for ever.
import { createRequire } from "node:module";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import path from "node:path";

const [modules, folder] = process.argv.slice(2);
const esbuild = createRequire(path.join(path.resolve(modules), "x.js"))("esbuild");
const here = import.meta.dirname ?? path.dirname(new URL(import.meta.url).pathname);
const common = {
  absWorkingDir: here,
  nodePaths: [path.resolve(modules)],
  bundle: true,
  minify: true,
  metafile: true,
  format: "esm",
  target: "es2022",
  jsx: "automatic",
  jsxImportSource: "preact",
  outdir: path.join(path.resolve(folder), "assets"),
  entryNames: "[name]-[hash]",
  chunkNames: "[name]-[hash]",
  assetNames: "[name]-[hash]",
  loader: { ".svg": "copy" },
  logLevel: "warning",
  legalComments: "none",
};

/** The name that an entry got, with its hash. */
function written(result, entry, extension) {
  const outputs = Object.entries(result.metafile.outputs);
  const [name] = outputs.find(
    ([output, about]) => about.entryPoint === entry && output.endsWith(extension),
  );
  return path.basename(name);
}

const worker = await esbuild.build({
  ...common,
  entryPoints: ["stream/worker.ts"],
  format: "iife",
});
const page = await esbuild.build({
  ...common,
  entryPoints: ["main.tsx", "style.css", "icon.svg"],
  splitting: true,
  define: { WORKER_NAME: JSON.stringify(written(worker, "stream/worker.ts", ".js")) },
});
const icon = Object.keys(page.metafile.outputs).find((name) => name.endsWith(".svg"));
const template = await readFile(path.join(here, "index.html"), "utf8");
const filled = template
  .replace("STYLE", `assets/${written(page, "style.css", ".css")}`)
  .replace("SCRIPT", `assets/${written(page, "main.tsx", ".js")}`)
  .replace("ICON", `assets/${path.basename(icon)}`);
await mkdir(folder, { recursive: true });
await writeFile(path.join(folder, "index.html"), filled);
