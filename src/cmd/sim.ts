import { AppError } from '../errors.ts';
import { parseSimArgs } from '../sim/config.ts';
import { withConfigFile } from '../sim/config-file.ts';
import { startSim } from '../sim/start.ts';
import { createLogger } from '../telemetry/log.ts';

async function main(): Promise<number> {
  const parsed = parseSimArgs(await withConfigFile(process.argv.slice(2)), process.env);
  if (parsed.kind !== 'config') {
    process.stdout.write(`${parsed.text.trimEnd()}\n`);
    return 0;
  }
  const log = createLogger({ name: 'sim' });
  const stopped = new AbortController();
  const stop = () => stopped.abort();
  process.on('SIGTERM', stop);
  process.on('SIGINT', stop);
  try {
    const sim = await startSim(parsed.config, { log, signal: stopped.signal, exit: (code) => process.exit(code) });
    if (!stopped.signal.aborted) {
      await new Promise((resolve) => stopped.signal.addEventListener('abort', resolve, { once: true }));
    }
    log.info('stopping');
    await sim.close();
  } catch (thrown) {
    // Stopped while the model was "loading".
    if (!stopped.signal.aborted) throw thrown;
  }
  return 0;
}

try {
  process.exit(await main());
} catch (thrown) {
  const error = AppError.from(thrown);
  process.stderr.write(`signalbox-sim: ${error.message}\n`);
  process.exit(error.exit);
}
