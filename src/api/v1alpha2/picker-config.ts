import { z } from 'zod';
import type { Issue } from '../issue.ts';

/**
 * The shape that every EndpointPickerConfig has, whatever its plugins are. Which plugins exist and what they take
 * is the picker's own knowledge; its image may be another version than ours.
 */
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
