import { type Issue, showValue } from '../issue.ts';
import type { LLMInferenceService, WorkloadSpec } from './llm-inference-service.ts';
import { isMultiNode } from './parallelism.ts';

/** Which fields need which version of vLLM, as far as the tag of an image tells it. */

type Version = readonly [major: number, minor: number];

/** Offloading to several tiers came with 0.22. */
export const offloadingVersion: Version = [0, 22];
/** Pipeline stages on several nodes without Ray (`--nnodes`) came with 0.12. */
const nodesVersion: Version = [0, 12];

/** The version that the tag of an image of vLLM tells, or undefined. */
export function vllmVersionOf(image: string): Version | undefined {
  const [, major, minor] = /vllm[^/]*:v?(\d+)\.(\d+)(?:\.\d+)?(?:[-@+.].*)?$/.exec(image) ?? [];
  return major === undefined || minor === undefined ? undefined : [Number(major), Number(minor)];
}

export function isOlder([major, minor]: Version, than: Version): boolean {
  return major < than[0] || (major === than[0] && minor < than[1]);
}

interface Need {
  readonly path: string;
  readonly version: Version;
  /** The image that the template names. */
  readonly image: string | undefined;
}

/** Images in templates that are too old for what the service asks. */
export function checkVersions({ spec }: LLMInferenceService): readonly Issue[] {
  return needsOf(spec).flatMap(({ path, version, image }): readonly Issue[] => {
    const found = image === undefined ? undefined : vllmVersionOf(image);
    if (found === undefined || !isOlder(found, version)) return [];
    const message = `needs vLLM ${version.join('.')} or newer, and container main runs ${showValue(image)}; give it a newer image`;
    return [{ path, code: 'invalid', message }];
  });
}

/** The same where the operator's image decides, or a tag that tells no version. */
export function warnVersions({ spec }: LLMInferenceService): readonly string[] {
  return needsOf(spec).flatMap(({ path, version, image }) => {
    if (image !== undefined && vllmVersionOf(image) !== undefined) return [];
    const who =
      image === undefined ? "the operator's image, as container main names none" : `the image ${showValue(image)}`;
    return [`${path}: needs vLLM ${version.join('.')} or newer; see that ${who} is`];
  });
}

function needsOf(spec: LLMInferenceService['spec']): readonly Need[] {
  const workloads: readonly (readonly [string, WorkloadSpec | undefined])[] = [
    ['spec', spec],
    ['spec.prefill', spec.prefill],
  ];
  return workloads.flatMap(([path, workload]): readonly Need[] => {
    const list: unknown = workload?.template?.containers;
    const main = Array.isArray(list) ? list.find((one) => one?.name === 'main') : undefined;
    // With a command of one's own nothing is rendered that needs a version.
    if (!workload || main?.command) return [];
    const image = typeof main?.image === 'string' ? main.image : undefined;
    return [
      ...(workload.kvCacheOffloading ? [{ path: `${path}.kvCacheOffloading`, version: offloadingVersion, image }] : []),
      ...(isMultiNode(workload) && (workload.parallelism?.pipeline ?? 1) > 1
        ? [{ path: `${path}.parallelism.pipeline`, version: nodesVersion, image }]
        : []),
    ];
  });
}
