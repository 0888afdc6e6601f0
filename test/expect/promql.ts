import { parser } from '@prometheus-io/lezer-promql';

/** Labels that Prometheus and the pod monitors add to every series. */
const targetLabels = ['namespace', 'pod', 'container', 'instance', 'job', 'app_kubernetes_io_name'] as const;

export interface KnownMetric {
  readonly type: string;
  readonly labels: readonly string[];
}

export type KnownMetrics = ReadonlyMap<string, KnownMetric>;

/** Series by name: a histogram has three. */
export function seriesOf(
  metrics: readonly { readonly name: string; readonly type: string; readonly labels: readonly string[] }[],
): KnownMetrics {
  const known = new Map<string, KnownMetric>();
  for (const { name, type, labels } of metrics) {
    if (type !== 'histogram') known.set(name, { type, labels });
    else {
      known.set(`${name}_bucket`, { type: 'counter', labels: [...labels, 'le'] });
      for (const end of ['_sum', '_count']) known.set(name + end, { type: 'counter', labels });
    }
  }
  return known;
}

/** Series of scraped pages: of a metric without a sample only type and name are known, so any label may be its. */
export function scrapedSeries(pages: readonly string[]): KnownMetrics {
  const types = new Map<string, string>();
  const labels = new Map<string, Set<string>>();
  for (const line of pages.join('\n').split('\n')) {
    const typed = /^# TYPE (\S+) (\w+)/.exec(line);
    if (typed) {
      const [, name = '', type = ''] = typed;
      const names = type === 'histogram' ? ['_bucket', '_sum', '_count'].map((end) => name + end) : [name];
      for (const each of names) types.set(each, type === 'gauge' ? 'gauge' : 'counter');
      continue;
    }
    const sample = /^([\w:]+)(?:\{(.*)\})? \S+$/.exec(line);
    if (!sample) continue;
    const [, name = '', pairs = ''] = sample;
    const known = labels.get(name) ?? new Set<string>();
    for (const [, label = ''] of pairs.matchAll(/(\w+)="(?:[^"\\]|\\.)*"/g)) known.add(label);
    labels.set(name, known);
  }
  return new Map([...types].map(([name, type]) => [name, { type, labels: [...(labels.get(name) ?? ['*'])] }]));
}

/** What Grafana puts in before it asks. */
function withoutVariables(query: string): string {
  const values = /^label_values\((.*), *\w+\)$/.exec(query);
  return (values?.[1] ?? query).replaceAll('$__rate_interval', '5m').replaceAll(/\$\{?\w+\}?/g, 'x');
}

export interface CheckedQuery {
  /** Empty when the query is valid. */
  readonly problems: readonly string[];
  /** Names of the series that it reads. */
  readonly reads: readonly string[];
}

const ofCounters = new Set(['rate', 'irate', 'increase']);

/** Parses a query and holds every name in it against the series that are known. */
export function checkQuery(query: string, known: KnownMetrics, recorded?: ReadonlySet<string>): CheckedQuery {
  const text = withoutVariables(query);
  const problems: string[] = [];
  const reads: string[] = [];
  const label = /^label_values\(.*, *(\w+)\)$/.exec(query)?.[1];
  type Node = ReturnType<typeof parser.parse>['topNode'];
  const textOf = (node: Node) => text.slice(node.from, node.to);
  const all = (node: Node, name: string): readonly Node[] => {
    const found: Node[] = [];
    node.cursor().iterate((each) => {
      if (each.name === name) found.push(each.node);
    });
    return found;
  };
  const nameOf = (selector: Node) => {
    const identifier = selector.getChild('Identifier');
    return identifier ? textOf(identifier) : '';
  };

  const tree = parser.parse(text);
  tree.iterate({
    enter: (node) => {
      if (node.type.isError) problems.push(`is not PromQL at ${node.from}: …${text.slice(node.from, node.from + 20)}`);
    },
  });
  for (const selector of all(tree.topNode, 'VectorSelector')) {
    const name = nameOf(selector);
    reads.push(name);
    if (recorded?.has(name)) continue;
    const metric = known.get(name);
    if (!metric) {
      problems.push(`${name} is not exported`);
      continue;
    }
    const has = (each: string) =>
      metric.labels.includes('*') || metric.labels.includes(each) || targetLabels.some((target) => target === each);
    for (const matcher of all(selector, 'LabelName')) {
      if (!has(textOf(matcher))) problems.push(`${name} has no label ${textOf(matcher)}`);
    }
    if (label !== undefined && !has(label)) problems.push(`${name} has no label ${label}`);
  }
  for (const aggregate of all(tree.topNode, 'AggregateExpr')) {
    const inner = all(aggregate, 'VectorSelector').map(nameOf);
    const [grouping] = all(aggregate, 'GroupingLabels');
    for (const node of grouping ? all(grouping, 'LabelName') : []) {
      const lacking = inner.find(
        (name) =>
          !recorded?.has(name) &&
          !known.get(name)?.labels.includes('*') &&
          !known.get(name)?.labels.includes(textOf(node)) &&
          !targetLabels.some((target) => target === textOf(node)),
      );
      if (lacking !== undefined) problems.push(`${lacking} has no label ${textOf(node)} to group by`);
    }
  }
  for (const call of all(tree.topNode, 'FunctionCall')) {
    const name = textOf(call).split('(')[0] ?? '';
    const inner = all(call, 'VectorSelector').map(nameOf);
    if (ofCounters.has(name)) {
      for (const each of inner) {
        if (known.get(each)?.type !== 'counter') problems.push(`${name}() of ${each}, which is no counter`);
      }
      if (all(call, 'MatrixSelector').length !== 1) problems.push(`${name}() wants one range: ${textOf(call)}`);
    }
    if (name === 'histogram_quantile' && !inner.every((each) => each.endsWith('_bucket'))) {
      problems.push(`histogram_quantile() of what has no buckets: ${inner.join(', ')}`);
    }
  }
  // A range is only for functions that take one.
  for (const range of all(tree.topNode, 'MatrixSelector')) {
    if (range.parent?.parent?.name !== 'FunctionCall') problems.push(`a range outside a function: ${textOf(range)}`);
  }
  return { problems, reads };
}
