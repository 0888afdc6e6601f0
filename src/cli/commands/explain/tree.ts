import type { Output } from '../../output.ts';

/** One thing that a service depends on, and how it is. */
export interface Cause {
  readonly what: string;
  readonly state: 'good' | 'bad' | 'unknown';
  /** How it is, in a sentence. */
  readonly message?: string;
  /** Shows it. */
  readonly command?: string;
  /** What to do about it. */
  readonly remedy?: string;
  /** Follows from another part that is bad, so there is nothing to do here. */
  readonly isConsequence?: boolean;
  readonly parts?: readonly Cause[];
}

/** Bad when a part is bad; a part that could not be looked at leaves the whole as it is. */
export function whole(what: string, parts: readonly Cause[], own: Omit<Cause, 'what' | 'state' | 'parts'> = {}): Cause {
  const state = parts.some((part) => part.state === 'bad') ? 'bad' : 'good';
  return { what, state, ...own, parts };
}

/** The parts to blame that have no bad part themselves: where to begin. */
export function rootCauses(cause: Cause): readonly Cause[] {
  if (cause.state !== 'bad') return [];
  const deeper = (cause.parts ?? []).flatMap(rootCauses);
  return deeper.length > 0 ? deeper : cause.isConsequence ? [] : [cause];
}

/**
 * Lines of a tree for people: what is bad in full, what is good in a line.
 *
 * @param isComplete show also what lies below good parts
 */
export function treeLines(
  cause: Cause,
  paint: Pick<Output, 'good' | 'bad' | 'warn' | 'dim' | 'bold'>,
  isComplete = false,
): readonly string[] {
  const lines: string[] = [];
  const visit = (node: Cause, head: string, tail: string) => {
    const mark = node.state === 'good' ? paint.good('✓') : node.state === 'bad' ? paint.bad('✗') : paint.warn('?');
    lines.push(
      `${head}${mark} ${node.state === 'bad' ? paint.bold(node.what) : node.what}${node.message ? `: ${node.message}` : ''}`,
    );
    const parts =
      isComplete || node.state === 'bad'
        ? (node.parts ?? [])
        : (node.parts ?? []).filter(({ state }) => state === 'unknown');
    const below = `${tail}${parts.length > 0 ? '│ ' : '  '}`;
    if (node.state !== 'good' || isComplete) {
      if (node.remedy) lines.push(`${below}  ${paint.warn('→')} ${node.remedy}`);
      if (node.command) lines.push(`${below}  ${paint.dim(`$ ${node.command}`)}`);
    }
    parts.forEach((part, i) => {
      const isLast = i === parts.length - 1;
      visit(part, `${tail}${isLast ? '└─ ' : '├─ '}`, `${tail}${isLast ? '   ' : '│  '}`);
    });
  };
  visit(cause, '', '');
  return lines;
}
