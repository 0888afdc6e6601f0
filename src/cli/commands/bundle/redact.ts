/** What is taken out of everything that goes into a support archive. */
export const redacted = '<redacted>';

const secretName =
  /(token|secret|passw(or)?d|api[-_]?key|access[-_]?key|private[-_]?key|credential|authorization|connection[-_]?string)/i;
/** Names that say where a secret is, not what it is. */
const referenceName = /(name|ref|refs|file|path|dir|mount|namespace|provider|url|uri|expiration\w*|automount\w*)$/i;
const secretFlag = /^(--?[\w-]*(?:token|secret|password|api-key|access-key|credential)[\w-]*)(=.*)?$/i;
/** Credentials by their own shape, wherever they stand. */
const shapes: readonly (readonly [RegExp, string])[] = [
  [/-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)/g, redacted],
  [/\b(Bearer|Basic)\s+[A-Za-z0-9._~+/=-]{8,}/gi, `$1 ${redacted}`],
  [/\bhf_[A-Za-z0-9]{8,}/g, redacted],
  [/\bsk-[A-Za-z0-9_-]{16,}/g, redacted],
  [/\b(AKIA|ASIA)[A-Z0-9]{16}\b/g, redacted],
  [/\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+/g, redacted],
  [
    /([?&](?:sig|signature|token|X-Amz-Signature|X-Amz-Credential|X-Amz-Security-Token|X-Goog-Signature)=)[^&\s"']+/gi,
    `$1${redacted}`,
  ],
  [/(\b[a-z][a-z0-9+.-]*:\/\/[^/\s:@"']+:)[^@\s/"']+@/gi, `$1${redacted}@`],
  [
    /((?:--?)?\b[\w-]*(?:api[-_]?key|token|password|secret)\b["']?\s*[:=]\s*["']?)(?!<redacted>)[^\s"',;}&]{6,}/gi,
    `$1${redacted}`,
  ],
];

/** A text without credentials. */
export function redactText(text: string): string {
  return shapes.reduce((result, [shape, replacement]) => result.replace(shape, replacement), text);
}

/**
 * A Kubernetes object without credentials: values of environment variables, flags and fields that are named like one, and
 * whatever has the shape of one. The data of Secrets goes whole; so does what repeats an object (`last-applied-configuration`, managedFields).
 */
export function redactObject(object: unknown): unknown {
  return visit(object, undefined);
}

function visit(value: unknown, name: string | undefined): unknown {
  if (typeof value === 'string')
    return name !== undefined && isSecret(name) && value !== '' ? redacted : redactText(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value))
    return name === 'args' || name === 'command' ? visitArguments(value) : value.map((item) => visit(item, name));
  const fields = value as Readonly<Record<string, unknown>>;
  const isSecretObject = fields.kind === 'Secret';
  // An environment variable, a header or a parameter: its name stands beside its value.
  const isNamedSecret =
    typeof fields.name === 'string' && isSecret(fields.name) && fields.value !== undefined && fields.value !== '';
  return Object.fromEntries(
    Object.entries(fields).flatMap(([key, child]) => {
      if (key === 'managedFields' || key === 'kubectl.kubernetes.io/last-applied-configuration') return [];
      if (isSecretObject && (key === 'data' || key === 'stringData')) return [[key, redacted]];
      if (isNamedSecret && key === 'value') return [[key, redacted]];
      return [[key, visit(child, key)]];
    }),
  );
}

function visitArguments(words: readonly unknown[]): readonly unknown[] {
  return words.map((word, i) => {
    if (typeof word !== 'string') return visit(word, undefined);
    const before = words[i - 1];
    const flag = secretFlag.exec(word);
    if (flag && !isReference(flag[1] ?? '')) return flag[2] === undefined ? word : `${flag[1]}=${redacted}`;
    const follows = typeof before === 'string' ? secretFlag.exec(before) : null;
    if (follows && follows[2] === undefined && !isReference(follows[1] ?? '') && !word.startsWith('-')) return redacted;
    return redactText(word);
  });
}

function isSecret(name: string): boolean {
  return secretName.test(name) && !isReference(name);
}

function isReference(name: string): boolean {
  return referenceName.test(name);
}
