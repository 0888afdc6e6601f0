import { AppError } from '../errors.ts';

/** Multiples of 10⁻⁹, the finest that Kubernetes keeps. */
export type Nano = bigint;

const nanoPerUnit = 1_000_000_000n;
const decimalExponents: Readonly<Record<string, number>> = {
  n: -9,
  u: -6,
  m: -3,
  '': 0,
  k: 3,
  M: 6,
  G: 9,
  T: 12,
  P: 15,
  E: 18,
};
const binaryFactors: Readonly<Record<string, bigint>> = {
  Ki: 1n << 10n,
  Mi: 1n << 20n,
  Gi: 1n << 30n,
  Ti: 1n << 40n,
  Pi: 1n << 50n,
  Ei: 1n << 60n,
};
const pattern = /^([+-]?)(\d+\.?\d*|\.\d+)(?:([eE][+-]?\d+)|(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E))?$/;

/** Reads a quantity (`500m`, `1.5Gi`, `1e3`) exactly, rounding up what is finer than 10⁻⁹; undefined when it is none. */
export function parseQuantity(text: string | number): Nano | undefined {
  const match = pattern.exec(String(text));
  if (!match) return undefined;
  const [, sign, digits = '', exponent, suffix = ''] = match;
  const [whole = '', fraction = ''] = digits.split('.');
  const factor = binaryFactors[suffix] ?? 1n;
  const power = exponent ? Number(exponent.slice(1)) : (decimalExponents[suffix] ?? 0);
  if (Math.abs(power) > 30) return undefined;
  // digits × 10^(power − fraction digits) × factor, in units of 10⁻⁹
  const shift = power - fraction.length + 9;
  const value = BigInt(whole + fraction || '0') * factor;
  const magnitude = shift >= 0 ? value * 10n ** BigInt(shift) : ceilDivide(value, 10n ** BigInt(-shift));
  return sign === '-' ? -magnitude : magnitude;
}

function ceilDivide(a: bigint, b: bigint): bigint {
  return (a + b - 1n) / b;
}

/** −1, 0 or 1. Errors: `invalid` for text that is no quantity. */
export function compareQuantities(a: string | number, b: string | number): -1 | 0 | 1 {
  const left = requireQuantity(a);
  const right = requireQuantity(b);
  return left < right ? -1 : left > right ? 1 : 0;
}

/** True when both are quantities of the same amount: `1000m` and `1`, `1Gi` and `1024Mi`. */
export function isSameQuantity(a: unknown, b: unknown): boolean {
  if (!isText(a) || !isText(b)) return false;
  const left = parseQuantity(a);
  return left !== undefined && left === parseQuantity(b);
}

/** The amount as a number, exact up to 2⁵³. Errors: `invalid`. */
export function quantityToNumber(text: string | number): number {
  const nano = requireQuantity(text);
  return Number(nano / nanoPerUnit) + Number(nano % nanoPerUnit) / Number(nanoPerUnit);
}

function requireQuantity(text: string | number): Nano {
  const value = parseQuantity(text);
  if (value === undefined) {
    throw new AppError(
      'invalid',
      `"${text}" is not a quantity; write a number with a suffix such as m, k, M, Ki or Gi`,
    );
  }
  return value;
}

function isText(value: unknown): value is string | number {
  return typeof value === 'string' || typeof value === 'number';
}
