import { z } from 'zod';
import { pickerPluginTypes } from '../foreign/picker-plugins.ts';
import type { Issue } from '../issue.ts';
import type { SchedulerSpec } from './llm-inference-service.ts';

/** The shape that every EndpointPickerConfig has, whatever its plugins are. What these take is the picker's own knowledge. */
const pickerConfig = z.looseObject({
  apiVersion: z.enum(['llm-d.ai/v1alpha1', 'inference.networking.x-k8s.io/v1alpha1']),
  kind: z.literal('EndpointPickerConfig'),
  plugins: z.array(z.looseObject({ type: z.string().min(1), name: z.string().min(1).optional() })).optional(),
  schedulingProfiles: z
    .array(
      z.looseObject({
        name: z.string().min(1),
        plugins: z.array(z.looseObject({ pluginRef: z.string().min(1), weight: z.number().optional() })).optional(),
      }),
    )
    .optional(),
});

/** What is wrong with an EndpointPickerConfig: its shape, names given twice, references to plugins that are not declared. */
export function checkPickerConfig(config: unknown, path: string, what = 'inline configuration'): readonly Issue[] {
  const parsed = pickerConfig.safeParse(config);
  if (!parsed.success) {
    return parsed.error.issues.map((issue) => ({
      path: issue.path.reduce<string>(
        (at, part) => (typeof part === 'number' ? `${at}[${part}]` : `${at}.${String(part)}`),
        path,
      ),
      code: 'invalid' as const,
      message: `${what} is invalid: ${issue.message}; give an EndpointPickerConfig of llm-d.ai/v1alpha1`,
    }));
  }
  const issues: Issue[] = [];
  const { plugins, schedulingProfiles } = parsed.data;
  const declared = new Set<string>();
  for (const [i, plugin] of (plugins ?? []).entries()) {
    const name = plugin.name ?? plugin.type;
    if (declared.has(name)) {
      issues.push({
        path: `${path}.plugins[${i}]`,
        code: 'duplicate',
        message: `"${name}" is declared twice; give one of them a name of its own`,
      });
    }
    declared.add(name);
  }
  for (const [i, profile] of (schedulingProfiles ?? []).entries()) {
    for (const [j, { pluginRef }] of (profile.plugins ?? []).entries()) {
      if (declared.has(pluginRef)) continue;
      issues.push({
        path: `${path}.schedulingProfiles[${i}].plugins[${j}].pluginRef`,
        code: 'invalid',
        message: `"${pluginRef}" names no plugin; declare it under plugins (there are: ${[...declared].join(', ') || 'none'})`,
      });
    }
  }
  return issues;
}

/** Whether the template brings a picker of its own, which may have other plugins than ours. */
export function isOwnPicker({ template }: SchedulerSpec): boolean {
  const main = template?.containers?.find(({ name }) => name === 'main');
  return main?.image !== undefined || main?.command !== undefined;
}

/** One issue for each plugin of a type that our picker does not have. */
export function checkPluginTypes(config: unknown, path: string): readonly Issue[] {
  const plugins = (config as { readonly plugins?: unknown } | null)?.plugins;
  if (!Array.isArray(plugins)) return [];
  return plugins.flatMap((plugin: { readonly type?: unknown } | null, i): readonly Issue[] => {
    const type = plugin?.type;
    if (typeof type !== 'string' || type === '' || pickerPluginTypes.includes(type)) return [];
    const near = pickerPluginTypes.filter(
      (known) => known.includes(type) || type.split('-').every((word) => known.includes(word)),
    );
    const message = `the endpoint picker has no plugin of type "${type}"; ${
      near.length > 0 ? `did you mean ${near.slice(0, 3).join(' or ')}?` : `it has ${pickerPluginTypes.join(', ')}`
    }${near.length > 0 ? '' : '; or name an image that has it in spec.router.scheduler.template'}`;
    return [{ path: `${path}.plugins[${i}].type`, code: 'unsupported', message }];
  });
}
