/** One series that is wanted: its name, and labels that it must have. */
export interface SeriesSpec {
  readonly name: string;
  readonly labels: Readonly<Record<string, string>>;
}

/** One sample: its labels as text (`a="b",c="d"`, empty without any) and its value. */
export interface Sample {
  readonly labels: string;
  readonly value: number;
}

/**
 * `name` or `name{label=value,…}`, the value with or without quotes.
 * Undefined when the text is neither.
 */
export function parseSeriesSpec(text: string): SeriesSpec | undefined {
  const match = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?$/.exec(text.trim());
  if (!match) return undefined;
  const labels: Record<string, string> = {};
  for (const pair of (match[2] ?? '').split(',').filter((part) => part.trim() !== '')) {
    const found = /^\s*([a-zA-Z_]\w*)\s*=\s*"?([^"]*)"?\s*$/.exec(pair);
    if (!found) return undefined;
    labels[found[1] ?? ''] = found[2] ?? '';
  }
  return { name: match[1] ?? '', labels };
}

/**
 * The samples of one series in a metrics page. Looks for the name instead of reading every line: a page has hundreds
 * of lines, of which five matter.
 */
export function samplesOf(page: string, spec: SeriesSpec): readonly Sample[] {
  const samples: Sample[] = [];
  const { name } = spec;
  const wanted = Object.entries(spec.labels).map(([label, value]) => `${label}="${value}"`);
  for (let at = page.indexOf(name); at >= 0; at = page.indexOf(name, at + name.length)) {
    if (at > 0 && page[at - 1] !== '\n') continue;
    const after = page[at + name.length];
    let labels = '';
    let from = at + name.length;
    if (after === '{') {
      const close = endOfLabels(page, from + 1);
      if (close < 0) continue;
      labels = page.slice(from + 1, close);
      from = close + 1;
    } else if (after !== ' ' && after !== '\t') continue;
    let end = page.indexOf('\n', from);
    if (end < 0) end = page.length;
    // A timestamp may follow the value.
    const value = Number(page.slice(from, end).trim().split(/\s+/)[0]);
    if (!Number.isNaN(value) && wanted.every((pair) => labels.includes(pair))) samples.push({ labels, value });
  }
  return samples;
}

/** Where the brace closes that opened before `from`, quoted braces aside; −1 when it does not. */
function endOfLabels(page: string, from: number): number {
  let isQuoted = false;
  for (let at = from; at < page.length; at++) {
    const char = page[at];
    if (char === '\\' && isQuoted) at++;
    else if (char === '"') isQuoted = !isQuoted;
    else if (char === '\n') return -1;
    else if (char === '}' && !isQuoted) return at;
  }
  return -1;
}

/** The value of a label in a sample's labels, or undefined. */
export function labelOf(labels: string, name: string): string | undefined {
  const found = new RegExp(`(?:^|,)\\s*${name}="((?:[^"\\\\]|\\\\.)*)"`).exec(labels);
  return found?.[1]?.replaceAll('\\"', '"').replaceAll('\\\\', '\\');
}

/** The sum over all series of that name: several engines behind one port are one endpoint. Undefined when there is none. */
export function sumOf(page: string, spec: SeriesSpec | undefined): number | undefined {
  if (spec === undefined) return undefined;
  const samples = samplesOf(page, spec);
  return samples.length === 0 ? undefined : samples.reduce((total, sample) => total + sample.value, 0);
}

/** The mean over all series of that name. Undefined when there is none. */
export function meanOf(page: string, spec: SeriesSpec | undefined): number | undefined {
  if (spec === undefined) return undefined;
  const samples = samplesOf(page, spec);
  return samples.length === 0 ? undefined : samples.reduce((total, sample) => total + sample.value, 0) / samples.length;
}
