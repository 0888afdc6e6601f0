import { realpathSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createOutput } from '../cli/output.ts';
import { runProgram } from '../cli/program.ts';
import { AppError } from '../errors.ts';
import { parseLocalEnvironment } from '../local/paths.ts';
import { createLogger, type LogLevel } from '../telemetry/log.ts';
import { version } from '../version.ts';

const self = realpathSync(fileURLToPath(import.meta.url));
// dist/signalbox.mjs when bundled, src/cmd/signalbox.ts otherwise.
const root = self.endsWith('.ts') ? join(dirname(self), '..', '..') : join(dirname(self), '..');
const interruption = new AbortController();
for (const name of ['SIGINT', 'SIGTERM'] as const) {
  process.on(name, () => {
    if (interruption.signal.aborted) process.exit(130);
    interruption.abort(new AppError('unavailable', `interrupted by ${name}`));
  });
}

// `signalbox status | head` closes our output early.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code !== 'EPIPE') throw error;
  interruption.abort(new AppError('unavailable', 'nobody reads the output any more'));
});

try {
  process.exitCode = await runProgram(
    {
      version,
      environment: parseLocalEnvironment(root, process.execPath, process.env),
      output: createOutput(process.stdout, process.env.NO_COLOR !== undefined),
      log: createLogger({ name: 'signalbox', level: (process.env.SIGNALBOX_LOG_LEVEL ?? 'error') as LogLevel }),
      signal: interruption.signal,
      self,
    },
    process.argv.slice(2),
  );
} catch (thrown) {
  const error = AppError.from(thrown);
  process.stderr.write(`signalbox: ${error.message}\n`);
  if (error.code === 'internal' && error.cause instanceof Error) process.stderr.write(`${error.cause.stack}\n`);
  process.exitCode = error.exit;
}

// Everything has been stopped; what a library still waits for is not waited for.
setTimeout(() => process.exit(), 2_000).unref();
