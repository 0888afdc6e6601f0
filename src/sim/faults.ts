import { AppError } from '../errors.ts';

/** What can be made to go wrong, with what its number means. */
export const faultKinds = {
  refuse: 'the port is closed for so many milliseconds, at once',
  hang: 'the request is read and never answered',
  slow: 'the answer begins so many milliseconds late',
  cut: 'the connection breaks after so many tokens',
  'wrong-json': 'the answer is 200 with half a JSON object',
  status: 'the answer is an error with this status',
  oom: 'the process ends with this exit code, as when memory ran out',
} as const;

export type FaultKind = keyof typeof faultKinds;

export interface Fault {
  readonly kind: FaultKind;
  readonly value: number;
  /** Share of requests, above 0 to 100. */
  readonly percent: number;
  /** How often at most. */
  readonly times: number;
}

const defaults: Readonly<Record<FaultKind, number>> = {
  refuse: 2000,
  hang: 0,
  slow: 2000,
  cut: 3,
  'wrong-json': 0,
  status: 500,
  oom: 1,
};

/**
 * Reads `kind[:value][@percent]`, several joined by commas.
 *
 * @throws AppError `invalid` naming what is wrong
 */
export function parseFaults(text: string): readonly Fault[] {
  return text
    .split(',')
    .filter((part) => part.trim() !== '')
    .map((part) => {
      const match = /^([a-z-]+)(?::(\d+))?(?:@(\d+(?:\.\d+)?))?$/.exec(part.trim());
      if (!match) throw new AppError('invalid', `"${part.trim()}" is not KIND[:VALUE][@PERCENT], such as slow:500@10`);
      return toFault({
        kind: match[1],
        ...(match[2] === undefined ? {} : { value: Number(match[2]) }),
        ...(match[3] === undefined ? {} : { percent: Number(match[3]) }),
      });
    });
}

/**
 * Checks a fault that came as JSON.
 *
 * @throws AppError `invalid`
 */
export function toFault(given: unknown): Fault {
  const { kind, value, percent = 100, times = Number.MAX_SAFE_INTEGER } = (given ?? {}) as Record<string, unknown>;
  if (typeof kind !== 'string' || !Object.hasOwn(faultKinds, kind)) {
    throw new AppError(
      'invalid',
      `fault "${String(kind)}" is unknown; there are ${Object.keys(faultKinds).join(', ')}`,
    );
  }
  const known = kind as FaultKind;
  const number = value ?? defaults[known];
  if (typeof number !== 'number' || !Number.isInteger(number) || number < 0) {
    throw new AppError('invalid', `fault ${kind}: value must be a whole number, not ${JSON.stringify(value)}`);
  }
  if (known === 'status' && (number < 400 || number > 599)) {
    throw new AppError('invalid', `fault status: ${number} must be a status from 400 to 599`);
  }
  if (typeof percent !== 'number' || !(percent > 0 && percent <= 100)) {
    throw new AppError('invalid', `fault ${kind}: percent must be above 0 and at most 100, not ${String(percent)}`);
  }
  if (typeof times !== 'number' || !Number.isInteger(times) || times < 1) {
    throw new AppError('invalid', `fault ${kind}: times must be a whole number of at least 1, not ${String(times)}`);
  }
  return { kind: known, value: number, percent, times };
}

/** The faults that are set now. Which requests they strike depends on their number alone, so that a run can be repeated. */
export class Faults {
  #active: { readonly fault: Fault; seen: number; struck: number }[] = [];

  constructor(initial: readonly Fault[]) {
    this.set(initial);
  }

  set(faults: readonly Fault[]): void {
    this.#active = faults.map((fault) => ({ fault, seen: 0, struck: 0 }));
  }

  view(): readonly (Fault & { readonly struck: number })[] {
    return this.#active.map(({ fault, struck }) => ({ ...fault, struck }));
  }

  /** The fault that strikes the next request, or undefined. */
  next(): Fault | undefined {
    for (const entry of this.#active) {
      const { fault } = entry;
      if (fault.kind === 'refuse' || entry.struck >= fault.times) continue;
      const before = Math.floor((entry.seen * fault.percent) / 100);
      entry.seen++;
      if (Math.floor((entry.seen * fault.percent) / 100) === before) continue;
      entry.struck++;
      return fault;
    }
    return undefined;
  }
}
