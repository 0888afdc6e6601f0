import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { describe, expect, it } from '@jest/globals';

/** Who may import whom: the table of ARCHITECTURE.md as data, held against the imports that are really there. */

const root = join(import.meta.dirname, '..', '..');

interface Row {
  /** A folder or file; the longest one that holds a file speaks for it. */
  readonly part: string;
  /** Folders and files whose values it may use. Its own part is always among them. */
  readonly may: readonly string[];
  /** Folders and files of which it may use types only. */
  readonly types?: readonly string[];
  /** Parts inside that must not know each other: each direct child stands alone. */
  readonly areChildrenApart?: boolean;
}

const base = ['src/errors.ts', 'src/clock.ts'];
const kube = ['src/kube'];
/** Shapes and names of objects: pure, so that manifests can be built with them. */
const objects = ['src/kube/object.ts'];
const telemetry = ['src/telemetry'];

const table: readonly Row[] = [
  { part: 'src/errors.ts', may: [] },
  { part: 'src/clock.ts', may: ['src/errors.ts'] },
  { part: 'src/flags.ts', may: ['src/errors.ts'] },
  { part: 'src/pki.ts', may: ['src/errors.ts'] },
  { part: 'src/version.ts', may: [] },
  { part: 'src/telemetry', may: base },
  { part: 'src/api', may: base },
  { part: 'src/openai', may: base },
  { part: 'src/kube', may: [...base, ...telemetry] },
  { part: 'src/render', may: ['src/api', 'src/errors.ts', ...objects], types: kube },
  { part: 'src/plan', may: ['src/api', 'src/errors.ts', ...objects], types: kube },
  { part: 'src/runtime', may: [...base, ...kube, ...telemetry, 'src/pki.ts'] },
  { part: 'src/epp/framework', may: ['src/errors.ts'], types: ['src/openai', 'src/clock.ts'] },
  { part: 'src/epp/plugins', may: ['src/epp/framework', 'src/errors.ts'], areChildrenApart: true },
  // The one list of all plugins.
  { part: 'src/epp/plugins/register.ts', may: ['src/epp/plugins', 'src/epp/framework', 'src/errors.ts'] },
  {
    part: 'src/epp',
    may: [...base, ...kube, ...telemetry, 'src/epp/framework', 'src/openai', 'src/flags.ts', 'src/pki.ts'],
  },
  {
    part: 'src/epp/start.ts',
    may: [
      'src/epp/plugins/register.ts',
      'src/epp',
      'src/epp/framework',
      ...base,
      ...kube,
      ...telemetry,
      'src/openai',
      'src/flags.ts',
      'src/pki.ts',
    ],
  },
  { part: 'src/sidecar', may: [...base, ...kube, ...telemetry, 'src/openai', 'src/flags.ts'] },
  { part: 'src/sim', may: [...base, ...telemetry, 'src/openai', 'src/flags.ts'] },
  { part: 'src/local', may: [...base, ...kube, ...telemetry, 'src/api/foreign', 'src/pki.ts'] },
  {
    part: 'src/cli',
    may: [
      ...base,
      ...kube,
      ...telemetry,
      'src/api',
      'src/render',
      'src/plan',
      'src/local',
      'src/openai',
      'src/flags.ts',
      // What a change would do is asked of the operator itself, run against a client that writes nothing.
      'controllers/index.ts',
      'controllers/config.ts',
    ],
  },
  { part: 'src/observability', may: [...telemetry, 'src/runtime/metrics.ts'] },
  {
    part: 'src/generate',
    may: [
      ...base,
      'src/api',
      ...telemetry,
      'src/local',
      'src/observability',
      'src/flags.ts',
      'webhooks/registration.ts',
    ],
    types: kube,
  },
  {
    part: 'controllers',
    may: [...base, ...kube, ...telemetry, 'src/api', 'src/runtime', 'src/render', 'src/plan', 'src/flags.ts'],
    areChildrenApart: true,
  },
  { part: 'controllers/index.ts', may: ['controllers', ...kube, ...telemetry, 'src/runtime', ...base] },
  { part: 'webhooks', may: ['src/api', ...kube, 'src/render', 'src/plan', 'src/errors.ts'] },
  // Everything; what nobody else has in its row is imported by nobody.
  { part: 'src/cmd', may: [] },
];

/** What generate may read beside its row: what is declared there is what it writes down. */
const declarations =
  /^(controllers\/[^/]+\/permissions|controllers\/permissions|controllers\/config|src\/[^/]+\/config|src\/epp\/picker-config|src\/epp\/plugins\/register)\.ts$/;

interface Import {
  readonly from: string;
  readonly to: string;
  readonly isType: boolean;
}

interface Source {
  readonly path: string;
  readonly text: string;
}

function listSources(folder: string): readonly Source[] {
  return readdirSync(join(root, folder), { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile() && entry.name.endsWith('.ts') && !entry.name.endsWith('.test.ts'))
    .map((entry) => {
      const file = join(entry.parentPath, entry.name);
      return { path: relative(root, file), text: readFileSync(file, 'utf8') };
    });
}

const sources = ['src', 'controllers', 'webhooks'].flatMap(listSources);

/** Static imports and re-exports, dynamic imports; `isType` when nothing of it is there at run time. */
function importsOf({ path, text }: Source): readonly Import[] {
  const found: Import[] = [];
  const add = (specifier: string, isType: boolean) => {
    const to = specifier.startsWith('.') ? relative(root, resolve(root, dirname(path), specifier)) : specifier;
    found.push({ from: path, to, isType });
  };
  for (const match of text.matchAll(
    /^(?:import|export)\s+(type\s+)?((?:[\w*$]+(?:\s+as\s+\w+)?\s*,?\s*)?(?:\{[^}]*\}\s*)?)from\s+'([^']+)'/gm,
  )) {
    const names = /\{([^}]*)\}/
      .exec(match[2] ?? '')?.[1]
      ?.split(',')
      .map((name) => name.trim())
      .filter((name) => name !== '');
    const areAllTypes =
      names !== undefined && (match[2] ?? '').trim().startsWith('{') && names.every((name) => name.startsWith('type '));
    add(match[3] ?? '', match[1] !== undefined || areAllTypes);
  }
  for (const match of text.matchAll(/^import\s+'([^']+)'/gm)) add(match[1] ?? '', false);
  for (const match of text.matchAll(/\bimport\(\s*'([^']+)'\s*\)/g)) add(match[1] ?? '', false);
  return found;
}

const imports = sources.flatMap(importsOf);
const own = imports.filter(
  ({ to }) => to.startsWith('src/') || to.startsWith('controllers/') || to.startsWith('webhooks/'),
);

const holds = (part: string, path: string) => path === part || path.startsWith(`${part}/`);
const rowOf = (path: string) =>
  table.filter(({ part }) => holds(part, path)).sort((a, b) => b.part.length - a.part.length)[0];

/** Why an import is not allowed, or undefined. */
function judge({ from, to, isType }: Import): string | undefined {
  const row = rowOf(from);
  if (!row) return 'is in no row of the table';
  if (row.part === 'src/cmd') return undefined;
  const target = rowOf(to);
  if (target?.part === row.part) {
    if (!row.areChildrenApart) return undefined;
    const child = (path: string) => path.slice(row.part.length + 1).split('/');
    const [a, b] = [child(from), child(to)];
    if (a.length === 1 || b.length === 1) return undefined;
    return a[0] === b[0] ? undefined : `${row.part}/${a[0]} and ${row.part}/${b[0]} stand apart`;
  }
  if (holds('src/generate', from) && declarations.test(to)) return undefined;
  // A part that is named in the table is reached only by its own name, not by the folder around it.
  const isNamed = (part: string) =>
    target && target.part.length > part.length ? holds(target.part, part) : holds(part, to);
  if (row.may.some((part) => isNamed(part))) return undefined;
  if (isType && (row.types ?? []).some(isNamed)) return undefined;
  return `${row.part} may not import ${isType ? 'types of ' : ''}${target?.part ?? to}`;
}

/** Each way by which a file comes back to itself, found depth first. */
function findCycles(edges: readonly Import[]): readonly (readonly string[])[] {
  const graph = new Map<string, string[]>();
  for (const { from, to } of edges) graph.set(from, [...(graph.get(from) ?? []), to]);
  const state = new Map<string, 'open' | 'done'>();
  const cycles: (readonly string[])[] = [];
  const visit = (path: string, trail: readonly string[]): void => {
    if (state.get(path) === 'done') return;
    if (state.get(path) === 'open') {
      cycles.push([...trail.slice(trail.indexOf(path)), path]);
      return;
    }
    state.set(path, 'open');
    for (const next of graph.get(path) ?? []) visit(next, [...trail, path]);
    state.set(path, 'done');
  };
  for (const path of graph.keys()) visit(path, []);
  return cycles;
}

describe('imports', () => {
  it('are found', () => {
    expect(sources.length).toBeGreaterThan(50);
    expect(own.length).toBeGreaterThan(100);
    const missing = own.filter(({ to }) => !sources.some(({ path }) => path === to));
    expect(missing).toEqual([]);
  });

  it('are read as they are written', () => {
    const text = [
      "import { a, type B } from './a.ts';",
      "import { type C, type D } from './b.ts';",
      "import type { E } from './c.ts';",
      "import f, { type G } from './d.ts';",
      'import {\n  h,\n  i as j,\n} from "./no.ts";'.replaceAll('"', "'"),
      "import * as k from 'pkg';",
      "import './e.ts';",
      "export { l } from './f.ts';",
      "const m = await import('./g.ts');",
    ].join('\n');
    expect(importsOf({ path: 'src/x/y.ts', text }).map(({ to, isType }) => [to, isType])).toEqual([
      ['src/x/a.ts', false],
      ['src/x/b.ts', true],
      ['src/x/c.ts', true],
      ['src/x/d.ts', false],
      ['src/x/no.ts', false],
      ['pkg', false],
      ['src/x/f.ts', false],
      ['src/x/e.ts', false],
      ['src/x/g.ts', false],
    ]);
  });

  it.each<[string, string, boolean, boolean]>([
    ['src/render/render.ts', 'src/kube/object.ts', true, true],
    ['src/render/render.ts', 'src/kube/client.ts', true, true],
    ['src/render/render.ts', 'src/kube/client.ts', false, false],
    ['src/render/render.ts', 'src/kube/object.ts', false, true],
    ['src/render/render.ts', 'src/cmd/operator.ts', true, false],
    ['src/api/crd.ts', 'src/kube/object.ts', true, false],
    ['src/sim/start.ts', 'src/epp/director.ts', false, false],
    ['src/local/node.ts', 'src/api/foreign/gateway-api.ts', false, true],
    ['src/local/node.ts', 'src/api/labels.ts', false, false],
    ['src/epp/director.ts', 'src/epp/plugins/register.ts', false, false],
    ['src/epp/start.ts', 'src/epp/plugins/register.ts', false, true],
    ['src/epp/plugins/scorer/a.ts', 'src/epp/plugins/filter/b.ts', false, false],
    ['controllers/a/controller.ts', 'controllers/b/gather.ts', true, false],
    ['controllers/a/controller.ts', 'webhooks/registration.ts', false, false],
    ['src/generate/rbac.ts', 'controllers/a/permissions.ts', false, true],
    ['src/generate/rbac.ts', 'controllers/a/controller.ts', false, false],
    ['src/cmd/operator.ts', 'controllers/index.ts', false, true],
    ['src/runtime/queue.ts', 'src/cmd/operator.ts', false, false],
  ])('%s → %s (types only: %s) is allowed: %s', (from, to, isType, isAllowed) => {
    expect(judge({ from, to, isType }) === undefined).toBe(isAllowed);
  });

  it('follow the table', () => {
    const broken = own.flatMap((edge) => {
      const why = judge(edge);
      return why ? [`${edge.from} → ${edge.to}: ${why}`] : [];
    });
    expect(broken).toEqual([]);
  });

  it('keep plugins of the picker from one another', () => {
    const register = 'src/epp/plugins/register.ts';
    const plugins = new Set(own.filter(({ from }) => from === register).map(({ to }) => to));
    expect(plugins.size).toBeGreaterThan(5);
    const between = own.filter(
      ({ from, to }) =>
        from !== register && holds('src/epp/plugins', from) && holds('src/epp/plugins', to) && plugins.has(to),
    );
    expect(between).toEqual([]);
  });

  it('make no cycles when they are loaded', () => {
    expect(findCycles(own.filter(({ isType }) => !isType))).toEqual([]);
  });

  it('make no cycles between parts, types included', () => {
    const across = findCycles(own).filter((cycle) => new Set(cycle.map((path) => rowOf(path)?.part)).size > 1);
    expect(across).toEqual([]);
  });

  it.each<[string, readonly string[]]>([
    ['@kubernetes/client-node', ['src/kube/config.ts']],
    ['pepr', ['webhooks/capability.ts', 'webhooks/handler.ts']],
  ])('load %s only where it is wrapped', (library, places) => {
    const users = imports.filter(({ to, isType }) => to === library && !isType).map(({ from }) => from);
    expect(users.filter((user) => !places.includes(user))).toEqual([]);
  });
});

/** Code without comments and texts, so that words in them are not mistaken for code. */
function codeOf(text: string): string {
  return text
    .replaceAll(/\/\*[\s\S]*?\*\//g, '')
    .replaceAll(/(?<=^|[^:'"`])\/\/.*$/gm, '')
    .replaceAll(/'(?:[^'\\\n]|\\.)*'/g, "''");
}

describe('sources', () => {
  it.each(['src/render', 'src/plan'])('of %s are pure', (folder) => {
    const impure = sources
      .filter(({ path }) => holds(folder, path))
      .flatMap(({ path, text }) => {
        const word = /\b(async|await|Date|process|setTimeout|setInterval|fetch)\b|\bMath\.random\b/.exec(
          codeOf(text),
        )?.[0];
        const node = /from 'node:[^']+'/.exec(text)?.[0];
        return [word, node].flatMap((found) => (found ? [`${path}: ${found}`] : []));
      });
    expect(impure).toEqual([]);
  });

  it('read the environment in commands only', () => {
    const exceptions = new Set([
      // KUBECONFIG, where no other environment is handed in.
      'src/kube/config.ts',
      // Children inherit what tools need: PATH, HOME, proxies.
      'src/local/binaries.ts',
      'src/local/launch.ts',
      // Text of a script that runs in a pod's process.
      'src/local/resolve-hook.ts',
      // A tool of the checkout, started by make.
      'src/generate/install-manifest.ts',
    ]);
    const readers = sources
      .filter(({ path }) => !holds('src/cmd', path) && !exceptions.has(path))
      .filter(({ text }) => /\bprocess\.env\b/.test(text))
      .map(({ path }) => path);
    expect(readers).toEqual([]);
  });

  it('are named after what they hold', () => {
    const vague = /^(utils?|helpers?|common|types|misc|index)\.ts$/;
    const allowed = new Set(['controllers/index.ts', 'webhooks/index.ts']);
    const bad = sources.filter(({ path }) => {
      const name = path.slice(path.lastIndexOf('/') + 1);
      return !allowed.has(path) && (vague.test(name) || !/^[a-z0-9]+(-[a-z0-9]+)*\.ts$/.test(name));
    });
    expect(bad.map(({ path }) => path)).toEqual([]);
  });

  it('export by name', () => {
    expect(sources.filter(({ text }) => /^export default\b/m.test(text)).map(({ path }) => path)).toEqual([]);
  });
});
