import { readFile } from 'node:fs/promises';
import { text as readStream } from 'node:stream/consumers';
import { Command } from 'commander';
import { AppError, messageOf } from '../../../errors.ts';
import type { Manifest } from '../../../kube/object.ts';
import { resourceOf } from '../../../kube/resources.ts';
import { addClusterOptions, type ClusterOptions, withCluster } from '../../connection.ts';
import type { Output } from '../../output.ts';
import { addOutputOption, parseOutputFormat, printResult } from '../../output-format.ts';
import type { CliDeps } from '../../program.ts';
import { type Finding, parseObjects, validateObject } from './run.ts';

interface ValidateOptions extends ClusterOptions {
  readonly server?: true;
  readonly output: string;
}

/** `signalbox validate FILE…`: what admission would say, before anything is applied. */
export function validateCommand(deps: CliDeps): Command {
  const command = new Command('validate')
    .description('say what is wrong with services and base configurations, without applying them')
    .argument('<files...>', 'YAML or JSON files; - for standard input')
    .option('--server', 'ask also the API server, by a dry run: rules in CEL, other kinds, quotas')
    .action(async (files: readonly string[], options: ValidateOptions) => {
      const format = parseOutputFormat(options.output);
      const objects = await readObjects(files);
      const findings = objects.map(({ object, source }) => validateObject(object, source));
      const all = options.server
        ? await withCluster(deps, options, ({ client, namespace }) =>
            Promise.all(
              findings.map(async (finding, i): Promise<Finding> => {
                const object = objects[i]?.object;
                const resource = object && resourceOf(object);
                if (!object || !resource || finding.errors.length > 0) return finding;
                const { skipped: _skipped, ...rest } = finding;
                const metadata = resource.namespaced ? { namespace, ...object.metadata } : object.metadata;
                try {
                  await client.apply(resource, { ...object, metadata }, dryRun, deps.signal);
                  return rest;
                } catch (thrown) {
                  const error = AppError.from(thrown);
                  if (error.code !== 'invalid' && error.code !== 'conflict') throw thrown;
                  return { ...rest, errors: [{ path: 'the API server', code: 'invalid', message: error.message }] };
                }
              }),
            ),
          )
        : findings;
      printResult(deps.output, format, all, (found) => show(deps.output, found));
      const broken = all.filter(({ errors }) => errors.length > 0).length;
      if (broken > 0) throw new AppError('invalid', `${broken} of ${all.length} objects would be refused`);
    });
  return addOutputOption(addClusterOptions(command));
}

const dryRun = { fieldManager: 'signalbox-cli', force: true, dryRun: true } as const;

/** The objects of files, at least one. */
export async function readObjects(
  files: readonly string[],
): Promise<readonly { readonly object: Manifest; readonly source: string }[]> {
  const found = await Promise.all(
    files.map(async (source) => parseObjects(await readText(source), source).map((object) => ({ object, source }))),
  );
  if (found.flat().length === 0) throw new AppError('usage', `${files.join(', ')}: no object in it`);
  return found.flat();
}

async function readText(file: string): Promise<string> {
  if (file === '-') return readStream(process.stdin);
  try {
    return await readFile(file, 'utf8');
  } catch (thrown) {
    throw new AppError('usage', `cannot read ${file}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

function show(output: Output, findings: readonly Finding[]): void {
  for (const { source, kind, name, errors, warnings, skipped } of findings) {
    const mark = errors.length > 0 ? output.bad('✗') : skipped ? output.dim('–') : output.good('✓');
    output.line(`${mark} ${source}: ${kind} ${name}${skipped ? output.dim(`  ${skipped}`) : ''}`);
    for (const { path, message } of errors) output.line(`    ${output.bold(path)}: ${message}`);
    for (const warning of warnings) output.line(`    ${output.warn('warning')}: ${warning}`);
  }
}
