import { spawnSync } from 'node:child_process';
import { availableParallelism, loadavg } from 'node:os';
import { join } from 'node:path';

/** Runs the benchmarks named on the command line (all of them by default), one after the other, each in a process of its own. */

const benches = ['epp', 'sidecar', 'operator', 'path'] as const;

/** None takes a minute; the first one may have to build binaries of the cluster. */
const maxMs = 15 * 60_000;

const wanted = process.argv.slice(2);
const unknown = wanted.filter((name) => !benches.some((bench) => bench === name));
if (unknown.length > 0) {
  process.stderr.write(`unknown benchmark ${unknown.join(', ')}: there are ${benches.join(', ')}\n`);
  process.exit(2);
}
const load = loadavg()[0] ?? 0;
process.stdout.write(`${availableParallelism()} cores, ${load.toFixed(1)} processes running before the start\n`);
let failed = false;
for (const bench of benches) {
  if (wanted.length > 0 && !wanted.includes(bench)) continue;
  process.stdout.write(`\n== ${bench} ==\n`);
  const result = spawnSync(process.execPath, [join(import.meta.dirname, `${bench}.ts`)], {
    stdio: 'inherit',
    timeout: maxMs,
  });
  if (result.error) process.stderr.write(`${bench} was stopped: ${result.error.message}\n`);
  if (result.status !== 0) failed = true;
}
process.exit(failed ? 1 : 0);
