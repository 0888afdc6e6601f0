import { Command } from 'commander';
import { stringify } from 'yaml';
import { AppError } from '../../../errors.ts';
import { addClusterOptions, type ClusterOptions, withCluster } from '../../connection.ts';
import type { CliDeps } from '../../program.ts';
import { readObjects } from '../validate/command.ts';

interface RenderOptions extends ClusterOptions {
  readonly live?: true;
}

/** `signalbox render FILE…`: the manifests that the operator would make. */
export function renderCommand(deps: CliDeps): Command {
  const command = new Command('render')
    .description(
      'print the manifests that the operator would make of services, as YAML; without a cluster unless --live',
    )
    .argument('<files...>', 'YAML or JSON files with services and their base configurations; - for standard input')
    .option('--live', 'with the settings, presets and kinds of a real cluster')
    .action(async (files: readonly string[], options: RenderOptions) => {
      const objects = await readObjects(files);
      if (!objects.some(({ object }) => object.kind === 'LLMInferenceService'))
        throw new AppError('usage', `${files.join(', ')}: no LLMInferenceService in it`);
      // The operator's own code: loaded by those who ask for it.
      const [{ renderServices }, { readOperatorConfig }] = await Promise.all([
        import('./render.ts'),
        import('../../preview.ts'),
      ]);
      const manifests = options.live
        ? await withCluster(deps, options, async ({ client, namespace }) =>
            renderServices(
              deps,
              objects,
              { source: client, config: await readOperatorConfig(client, deps.signal) },
              namespace,
            ),
          )
        : await renderServices(deps, objects, undefined, options.namespace);
      deps.output.raw(
        manifests.map((manifest) => stringify(manifest, { lineWidth: 0, aliasDuplicateObjects: false })).join('---\n'),
      );
    });
  return addClusterOptions(command);
}
