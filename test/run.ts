import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** Runs the jest projects named on the command line (all of them by default) and ends with one line that counts. */

interface Result {
  readonly numPassedTests: number;
  readonly numFailedTests: number;
  readonly numRuntimeErrorTestSuites: number;
  readonly numPendingTests: number;
}

const root = join(import.meta.dirname, '..');
/** In order: the fast ones first. Those that start clusters run one at a time. */
const projects: readonly (readonly [name: string, workers: number])[] = [
  ['unit', 2],
  ['cluster', 1],
  ['e2e', 1],
];

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !projects.some(([project]) => project === name));
if (unknown.length > 0) {
  process.stderr.write(`unknown tests ${unknown.join(', ')}: there are ${projects.map(([name]) => name).join(', ')}\n`);
  process.exit(2);
}

const folder = await mkdtemp(join(tmpdir(), 'signalbox-results-'));
let passed = 0;
let failed = 0;
let skipped = 0;
let broken = false;
try {
  for (const [name, workers] of projects) {
    if (wanted.length > 0 && !wanted.includes(name)) continue;
    const output = join(folder, `${name}.json`);
    const code = await run(name, workers, output);
    const result = await readFile(output, 'utf8')
      .then((text) => JSON.parse(text) as Result)
      .catch(() => undefined);
    if (result) {
      passed += result.numPassedTests;
      failed += result.numFailedTests + result.numRuntimeErrorTestSuites;
      skipped += result.numPendingTests;
    }
    if (code !== 0) broken = true;
  }
} finally {
  await rm(folder, { recursive: true, force: true });
}
if (broken && failed === 0) failed = 1;
process.stdout.write(`\n${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}\n`);
process.exit(failed > 0 ? 1 : 0);

function run(project: string, workers: number, output: string): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(
      process.execPath,
      [
        '--experimental-vm-modules',
        '--no-warnings=ExperimentalWarning',
        join(root, 'node_modules/jest/bin/jest.js'),
        '--selectProjects',
        project,
        '--passWithNoTests',
        '--json',
        `--outputFile=${output}`,
        ...(workers === 1 ? ['--runInBand'] : [`--maxWorkers=${workers}`]),
      ],
      { cwd: root, stdio: ['ignore', 'ignore', 'inherit'] },
    );
    child.once('exit', (code) => resolve(code ?? 1));
  });
}
