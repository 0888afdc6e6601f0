import { conditionTypes } from '../../api/conditions.ts';
import type { Verdict } from '../check.ts';
import type { CheckInput } from '../observed.ts';

/** Every base configuration is there, and together with the service they give a spec. */
export function checkCombined({ combined }: CheckInput): Verdict | undefined {
  return combined?.refusal && { condition: conditionTypes.presetsCombined, ...combined.refusal };
}
