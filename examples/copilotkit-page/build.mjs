// Bundles the page into dist/; with a port as its argument it serves the page there, too, on this machine alone.
import { build, context } from "esbuild";

const options = {
  entryPoints: ["src/main.jsx"],
  outdir: "dist",
  bundle: true,
  splitting: true,
  format: "esm",
  minify: true,
  jsx: "automatic",
  loader: { ".woff": "dataurl", ".woff2": "dataurl", ".ttf": "dataurl" },
  define: {
    CALLBOARD: JSON.stringify(process.env.CALLBOARD ?? "http://127.0.0.1:8000"),
    "process.env.NODE_ENV": '"production"',
  },
};
const port = Number(process.argv[2] ?? 0);
await build(options);
if (port) {
  const page = await context(options);
  await page.serve({ host: "127.0.0.1", port, servedir: "." });
  console.log(`The page: http://127.0.0.1:${port}`);
}
