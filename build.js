// Bundles the five binaries and the picker's worker: one ESM file each, with what they load lazily split off.
//   node build.js                 all of them into dist/
//   node build.js FOLDER NAME…    these alone into FOLDER, as an image wants them
// The same sources and dependencies give the same bytes.
import { rename, rm } from 'node:fs/promises';
import { build } from 'esbuild';

const binaries = ['operator', 'epp', 'sidecar', 'sim', 'signalbox'];
const [outdir = 'dist', ...wanted] = process.argv.slice(2);
const unknown = wanted.filter((name) => !binaries.includes(name));
if (unknown.length > 0) {
  process.stderr.write(`build.js: ${unknown.join(', ')}: no such binary; there are ${binaries.join(', ')}\n`);
  process.exit(2);
}
const names = wanted.length > 0 ? wanted : binaries;

const entryPoints = (...of) => Object.fromEntries(of.map((name) => [name, `src/cmd/${name}.ts`]));

const options = {
  // Beside dist/, so that a build that fails leaves what was there, and what runs from it is disturbed for a moment only.
  outdir: `${outdir}.new`,
  outExtension: { '.js': '.mjs' },
  chunkNames: 'chunks/[name]-[hash]',
  bundle: true,
  splitting: true,
  platform: 'node',
  format: 'esm',
  target: 'node24',
  // ES modules where a package has them: its CommonJS loses its names behind a lazy import.
  mainFields: ['module', 'main'],
  // Brings binaries of its own; loaded by the picker only where a configuration listens for events of engines.
  external: ['zeromq'],
  sourcemap: 'linked',
  logLevel: 'warning',
  // CommonJS dependencies look for these.
  banner: {
    js: "import { createRequire as __createRequire } from 'node:module'; import { dirname as __dirnameOf } from 'node:path'; import { fileURLToPath as __toPath } from 'node:url'; const require = __createRequire(import.meta.url); const __filename = __toPath(import.meta.url); const __dirname = __dirnameOf(__filename);",
  },
};

await rm(`${outdir}.new`, { recursive: true, force: true });
// Pepr finds a kind by the name of its class. Names cost a call for every closure that is made, so the others go without.
if (names.includes('operator')) await build({ ...options, entryPoints: entryPoints('operator'), keepNames: true });
const plain = names.filter((name) => name !== 'operator' && name !== 'sidecar');
if (plain.length > 0) {
  await build({
    ...options,
    entryPoints: {
      ...entryPoints(...plain),
      // The worker that runs a user's scorer; the picker finds it beside itself.
      ...(plain.includes('epp') ? { 'module-host': 'src/epp/plugins/module/host.ts' } : {}),
    },
  });
}
// The sidecar is on every decode pod: what it does not need costs memory there, and so does the text of what it needs. It calls
// engines by HTTP/1.1 alone, so the client of HTTP/2, which loads node's at once, is left out.
if (names.includes('sidecar')) {
  await build({
    ...options,
    entryPoints: entryPoints('sidecar'),
    minifyWhitespace: true,
    minifySyntax: true,
    plugins: [
      {
        name: 'without-http2-client',
        setup: (build) => {
          build.onLoad({ filter: /undici\/lib\/dispatcher\/client-h2\.js$/ }, () => ({
            contents: 'module.exports = undefined',
          }));
        },
      },
    ],
  });
}
await rm(outdir, { recursive: true, force: true });
await rename(`${outdir}.new`, outdir);
