import { existsSync } from 'node:fs';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** One of our programs. */
export type ProgramName = 'operator' | 'epp' | 'sidecar' | 'sim' | 'signalbox';

/** What a listed image holds: words that a container of it may run. */
export interface Image {
  /** Short name for log lines and folders. */
  readonly name: string;
  /** Run when the container names no command. */
  readonly entrypoint: readonly string[];
  /** Commands by the path or name under which they are known inside the image, and what runs in their place. */
  readonly commands: Readonly<Record<string, readonly string[]>>;
  /** Commands on the PATH of the container: name → script of /bin/sh. */
  readonly tools: Readonly<Record<string, string>>;
  /** Environment of its containers, unless they say otherwise. */
  readonly env?: Readonly<Record<string, string>>;
  /** Said once when the first container of it starts: what stands in for the image. */
  readonly notice?: string;
}

/** Image name → what to run. */
export interface ImageTable {
  /** The listed image, or undefined when there is none of that name. Registry host, tag and digest do not matter. */
  find(image: string): Image | undefined;
  /** Folder with the image's tools, for the PATH; made on the first call. */
  toolsDir(image: Image): Promise<string | undefined>;
}

export interface ImageTableOptions {
  /** The checkout or installed package. */
  readonly root: string;
  /** The Node 24 that runs our programs. */
  readonly node: string;
  /** Tools are written below this folder. */
  readonly stateDir: string;
  /** More images, by repository; for tests. */
  readonly extra?: Readonly<Record<string, Image>>;
}

/** What our programs run with, as in the Dockerfile: the picker without source maps, both hot paths with a small nursery. */
const nodeFlags: Readonly<Record<ProgramName, readonly string[]>> = {
  operator: ['--max-semi-space-size=4'],
  epp: ['--max-semi-space-size=4'],
  sidecar: ['--enable-source-maps', '--max-semi-space-size=4'],
  sim: ['--enable-source-maps'],
  signalbox: ['--enable-source-maps'],
};
const environments: Partial<Record<ProgramName, Readonly<Record<string, string>>>> = { epp: { MALLOC_ARENA_MAX: '1' } };

/** The words that run one of our programs: its bundle, or its source where nothing was built. */
export function programCommand(root: string, node: string, program: ProgramName): readonly string[] {
  const bundle = join(root, 'dist', `${program}.mjs`);
  return existsSync(bundle)
    ? [node, ...nodeFlags[program], bundle]
    : [node, '--disable-warning=ExperimentalWarning', join(root, 'src', 'cmd', `${program}.ts`)];
}

/** The table of images that the embedded cluster can run. */
export function createImageTable(options: ImageTableOptions): ImageTable {
  const program = (name: ProgramName): readonly string[] => programCommand(options.root, options.node, name);
  const own = (name: ProgramName, inImage: readonly string[], upstream = false): Image => ({
    name,
    entrypoint: program(name),
    commands: Object.fromEntries(inImage.map((command) => [command, program(name)])),
    tools: {},
    ...(environments[name] === undefined ? {} : { env: environments[name] }),
    ...(upstream ? { notice: `run by signalbox/${name}` } : {}),
  });
  const pickerCommands = ['/app/epp', '/epp', 'epp', 'signalbox-epp'];
  const sidecarCommands = [
    '/app/pd-sidecar',
    '/app/llm-d-routing-sidecar',
    '/llm-d-routing-sidecar',
    'pd-sidecar',
    'llm-d-routing-sidecar',
    'signalbox-sidecar',
  ];
  const vllm = renderVllmImage(program('sim'), program('sidecar'), sidecarCommands);
  const table: Readonly<Record<string, Image>> = {
    'signalbox/operator': own('operator', ['signalbox-operator']),
    'signalbox/epp': own('epp', pickerCommands),
    'signalbox/cli': own('signalbox', ['signalbox']),
    'signalbox/sidecar': own('sidecar', sidecarCommands),
    'signalbox/sim': {
      ...own('sim', ['signalbox-sim']),
      tools: { vllm: vllm.tools.vllm ?? '' },
    },
    'llm-d/llm-d-router-endpoint-picker': own('epp', pickerCommands, true),
    'llm-d/llm-d-inference-scheduler': own('epp', pickerCommands, true),
    'gateway-api-inference-extension/epp': own('epp', pickerCommands, true),
    'llm-d/llm-d-routing-sidecar': own('sidecar', sidecarCommands, true),
    'llm-d/llm-d-router-disagg-sidecar': own('sidecar', sidecarCommands, true),
    'vllm/vllm-openai': vllm,
    'vllm/vllm-openai-cpu': vllm,
    'llm-d/llm-d': vllm,
    'llm-d/llm-d-cuda': vllm,
    'llm-d/llm-d-cpu': vllm,
    'llm-d/llm-d-rocm': vllm,
    'llm-d/llm-d-xpu': vllm,
    'llm-d/llm-d-aws': vllm,
    'llm-d/llm-d-inference-sim': { ...vllm, name: 'inference-sim', entrypoint: program('sim'), commands: {} },
    ...options.extra,
  };
  const written = new Map<Image, Promise<string | undefined>>();
  return {
    find: (image) => {
      const repository = parseRepository(image);
      if (repository === undefined) return undefined;
      // `host/a/vllm/vllm-openai` is known by its last two names.
      const names = repository.split('/');
      return table[names.slice(-2).join('/')] ?? (names.length === 1 ? table[repository] : undefined);
    },
    toolsDir: (image) => {
      const before = written.get(image);
      if (before) return before;
      const writing = writeTools(join(options.stateDir, 'bin', image.name), image.tools);
      written.set(image, writing);
      return writing;
    },
  };
}

/** The vLLM images: a `vllm` and a `python3` on the PATH, which run the simulator where vLLM would run. */
function renderVllmImage(
  sim: readonly string[],
  sidecar: readonly string[],
  sidecarCommands: readonly string[],
): Image {
  const run = sim.map(quote).join(' ');
  return {
    name: 'vllm',
    entrypoint: ['vllm', 'serve'],
    // Some of these images carry the routing sidecar, too.
    commands: Object.fromEntries(sidecarCommands.map((command) => [command, sidecar])),
    tools: {
      vllm: `case "$1" in
serve) shift; exec ${run} "$@" ;;
--version|-v) echo "0.0.0 (simulated)" ;;
*) echo "vllm: the embedded cluster simulates \\"vllm serve\\" only, not \\"$1\\"" >&2; exit 2 ;;
esac`,
      python3: `if [ "$1" = -m ] && [ "$2" = vllm.entrypoints.openai.api_server ]; then shift 2; exec ${run} "$@"; fi
here=$(dirname "$0")
PATH=\${PATH#"$here":}
exec python3 "$@"`,
    },
    notice: 'run by the simulator signalbox/sim: no model is loaded and no GPU is used',
  };
}

/** The repository of an image reference without tag and digest; undefined when it is no image reference. */
export function parseRepository(image: string): string | undefined {
  const match =
    /^((?:[a-zA-Z0-9.-]+(?::\d+)?\/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)(?::[\w][\w.-]{0,127})?(?:@[a-z0-9]+:[0-9a-f]{32,})?$/.exec(
      image,
    );
  return match?.[1];
}

async function writeTools(dir: string, tools: Readonly<Record<string, string>>): Promise<string | undefined> {
  if (Object.keys(tools).length === 0) return undefined;
  await mkdir(dir, { recursive: true });
  for (const [name, script] of Object.entries(tools)) {
    const path = join(dir, name);
    await writeFile(path, `#!/bin/sh\n${script}\n`);
    await chmod(path, 0o755);
  }
  return dir;
}

function quote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
