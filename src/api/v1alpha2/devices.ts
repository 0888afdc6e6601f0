import type { PodTemplate } from '../foreign/pod.ts';
import { type Issue, showValue } from '../issue.ts';
import { annotations } from '../labels.ts';
import type { LLMInferenceService } from './llm-inference-service.ts';

/** Devices that the annotations of a service claim for each of its pods. */
export interface DeviceClaim {
  readonly deviceClass: string;
  readonly count: number;
  /** CEL expressions that a device has to fulfil, all of them. */
  readonly selectors: readonly string[];
  /** The container that gets the devices. */
  readonly container: string;
}

const prefix = 'serving.kserve.io/exp-dra-';
const { deviceClass, deviceCount, deviceSelector, deviceContainer } = annotations;
const known: readonly string[] = [deviceClass, deviceCount, deviceSelector, deviceContainer];

/** More would be refused by the API server: a claim holds at most so many devices, a request so many selectors. */
const most = { devices: 32, selectors: 32 } as const;

/** The claim that a service asks for, or undefined. */
export function deviceClaimOf({ metadata }: Pick<LLMInferenceService, 'metadata'>): DeviceClaim | undefined {
  const given = metadata.annotations ?? {};
  const name = given[deviceClass]?.trim();
  if (!name) return undefined;
  return {
    deviceClass: name,
    count: Number(given[deviceCount]?.trim() || 1),
    selectors: selectorsOf(given[deviceSelector]),
    container: given[deviceContainer]?.trim() || 'main',
  };
}

function selectorsOf(text: string | undefined): readonly string[] {
  return (text ?? '')
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

/** The annotations that devices are asked for with: an update that changes one is judged. */
export function deviceAnnotationsOf({ metadata }: LLMInferenceService): Readonly<Record<string, string>> {
  return Object.fromEntries(Object.entries(metadata.annotations ?? {}).filter(([name]) => name.startsWith(prefix)));
}

/** What is wrong with the annotations that ask for devices. */
export function checkDevices(service: LLMInferenceService): readonly Issue[] {
  const given = deviceAnnotationsOf(service);
  const issues: Issue[] = [];
  const say = (name: string, code: Issue['code'], message: string) =>
    issues.push({ path: `metadata.annotations[${name}]`, code, message });
  const invalid = (name: string, message: string) => say(name, 'invalid', `${showValue(given[name])}: ${message}`);
  for (const name of Object.keys(given))
    if (!known.includes(name)) say(name, 'unsupported', `is not known; there are ${known.join(', ')}`);
  const others = [deviceCount, deviceSelector, deviceContainer];
  const [name, count, container] = [deviceClass, deviceCount, deviceContainer].map((key) => given[key]?.trim());
  if (name === undefined) {
    if (others.some((other) => given[other] !== undefined))
      say(
        deviceClass,
        'required',
        `${deviceClass} is required to enable managed DRA when ${deviceCount}, ${deviceSelector}, or ${deviceContainer} is set`,
      );
  } else if (name === '') invalid(deviceClass, 'device class must not be empty');
  else if (name.length > 253 || !/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/.test(name))
    invalid(deviceClass, 'device class must be a DNS subdomain such as gpu.example.com');
  if (count !== undefined && count !== '' && !/^\+?\d+$/.test(count))
    invalid(deviceCount, `invalid ${deviceCount} value; write a whole number`);
  else if (count && Number(count) < 1) invalid(deviceCount, `invalid ${deviceCount} value: must be >= 1`);
  else if (count && Number(count) > most.devices)
    invalid(deviceCount, `a claim holds at most ${most.devices} devices; lower it`);
  const selectors = selectorsOf(given[deviceSelector]);
  if (given[deviceSelector] !== undefined && selectors.length === 0)
    invalid(deviceSelector, 'cel selector must contain at least one non-empty CEL expression');
  if (selectors.length > most.selectors)
    invalid(deviceSelector, `at most ${most.selectors} expressions; join some with &&`);
  if (container === '') invalid(deviceContainer, 'container name must not be empty');
  else if (container !== undefined && !/^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/.test(container))
    invalid(deviceContainer, 'container name must be a DNS label');
  else if (container !== undefined) issues.push(...checkContainer(service, container));
  return issues;
}

/** Every pod that gets a claim has the container that it is for. Bases may bring it. */
function checkContainer({ spec }: LLMInferenceService, container: string): readonly Issue[] {
  if (container === 'main' || (spec.baseRefs ?? []).length > 0) return [];
  const templates: readonly (readonly [string, PodTemplate | undefined, boolean])[] = [
    ['spec.template', spec.template, true],
    ['spec.worker', spec.worker, spec.worker !== undefined],
    ['spec.prefill.template', spec.prefill?.template, spec.prefill !== undefined],
    ['spec.prefill.worker', spec.prefill?.worker, spec.prefill?.worker !== undefined],
  ];
  return templates.flatMap(([path, template, isThere]): readonly Issue[] => {
    const list: unknown = template?.containers;
    if (!isThere || (Array.isArray(list) && list.some((one) => one?.name === container))) return [];
    const message = `${showValue(container)}: ${path} has no container of this name; name one, or remove the annotation for main`;
    return [{ path: `metadata.annotations[${deviceContainer}]`, code: 'invalid', message }];
  });
}
