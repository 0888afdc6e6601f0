import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { checkQuery, seriesOf } from '../../test/expect/promql.ts';
import { alertNames, ruleGroups } from './alerts.ts';
import { dashboards } from './dashboards.ts';
import { renderDashboard } from './grafana.ts';
import { listMetrics } from './metric-registry.ts';

const root = join(import.meta.dirname, '..', '..');
const metrics = listMetrics();
const rules = ruleGroups.flatMap((group) => group.rules);
const recorded = rules.flatMap((rule) =>
  'record' in rule
    ? [{ name: rule.record, type: 'gauge', labels: ['namespace', 'app_kubernetes_io_name'] as readonly string[] }]
    : [],
);
const exported = seriesOf(metrics);
const known = seriesOf([...metrics, ...recorded]);

describe('the metric registry', () => {
  it('has metrics of every part, each name once, with a help text', () => {
    expect([...new Set(metrics.map(({ exporter }) => exporter))]).toEqual(['operator', 'picker', 'sidecar', 'engine']);
    const names = metrics.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { name, help } of metrics) expect([name, help]).toEqual([name, expect.stringMatching(/\S/)]);
  });

  it('follows the naming of Prometheus where the name is ours', () => {
    for (const { name, type } of metrics.filter((metric) => metric.name.startsWith('signalbox_'))) {
      expect([name, name.endsWith('_total')]).toEqual([name, type === 'counter']);
      if (type === 'histogram') expect(name).toMatch(/_seconds$/);
    }
  });
});

describe('the check of queries', () => {
  const some = seriesOf([
    { name: 'a_total', type: 'counter', labels: ['code'] },
    { name: 'b', type: 'gauge', labels: [] },
    { name: 'c_seconds', type: 'histogram', labels: [] },
  ]);
  it.each([
    ['sum by (code) (rate(a_total{code=~"5.."}[5m]))', []],
    ['histogram_quantile(0.9, sum by (le) (rate(c_seconds_bucket[$__rate_interval])))', []],
    ['label_values(b{namespace="$namespace"}, pod)', []],
    ['sum by (code (a_total)', [expect.stringContaining('is not PromQL')]],
    ['b ==', [expect.stringContaining('is not PromQL')]],
    ['d > 1', ['d is not exported']],
    ['b{code="5"}', ['b has no label code']],
    ['sum by (code) (b)', ['b has no label code to group by']],
    ['rate(b[5m])', ['rate() of b, which is no counter']],
    ['rate(a_total)', [expect.stringContaining('wants one range')]],
    ['sum(a_total[5m])', [expect.stringContaining('a range outside a function')]],
    ['histogram_quantile(0.9, rate(c_seconds_count[5m]))', [expect.stringContaining('has no buckets')]],
    ['label_values(b, code)', ['b has no label code']],
  ])('says of %s: %j', (query, problems) => {
    expect(checkQuery(query, some).problems).toEqual(expect.arrayContaining(problems));
    if (problems.length === 0) expect(checkQuery(query, some).problems).toEqual([]);
  });
});

describe.each(Object.entries(dashboards))('dashboard %s', (_name, spec) => {
  it('asks only for what is exported', () => {
    const queries = [
      ...spec.variables.map(({ query }) => query),
      ...spec.rows.flatMap(({ panels }) => panels.flatMap((panel) => panel.queries.map(({ expr }) => expr))),
    ];
    expect(queries.length).toBeGreaterThan(5);
    expect(
      queries.flatMap((query) => checkQuery(query, known).problems.map((problem) => `${problem}: ${query}`)),
    ).toEqual([]);
  });

  it('names its lines by labels that they have', () => {
    for (const { title, queries } of spec.rows.flatMap(({ panels }) => panels)) {
      for (const { expr, legend } of queries) {
        for (const [, label = ''] of legend.matchAll(/\{\{(\w+)\}\}/g)) {
          expect([title, label, new RegExp(`by \\([^)]*\\b${label}\\b|^signalbox:`).test(expr)]).toEqual([
            title,
            label,
            true,
          ]);
        }
      }
    }
  });

  it('lays its panels out without overlap, within 24 columns', () => {
    const { panels } = renderDashboard(spec) as {
      panels: { id: number; gridPos: { x: number; y: number; w: number; h: number } }[];
    };
    expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
    for (const [i, { gridPos: a }] of panels.entries()) {
      expect(a.x + a.w).toBeLessThanOrEqual(24);
      for (const { gridPos: b } of panels.slice(i + 1)) {
        const isApart = a.x + a.w <= b.x || b.x + b.w <= a.x || a.y + a.h <= b.y || b.y + b.h <= a.y;
        expect([a, b, isApart]).toEqual([a, b, true]);
      }
    }
  });
});

describe('alerts and recorded series', () => {
  it('ask only for what is exported or recorded', () => {
    const problems = rules.flatMap((rule) =>
      checkQuery(rule.expr, 'record' in rule ? exported : known).problems.map((problem) => `${problem}: ${rule.expr}`),
    );
    expect(problems).toEqual([]);
  });

  it('divide histograms at bounds that are buckets', () => {
    const bounds = rules.flatMap(({ expr }) =>
      [...expr.matchAll(/([\w:]+)_bucket\{[^}]*le=~?"([\d.]+)/g)].map(
        ([, name = '', bound]) => [name, Number(bound)] as const,
      ),
    );
    expect(bounds.length).toBeGreaterThan(10);
    for (const [name, bound] of bounds) {
      expect([name, metrics.find((each) => each.name === name)?.buckets]).toEqual([
        name,
        expect.arrayContaining([bound]),
      ]);
    }
  });

  it('have a page each that says what to do, and no page is left over', () => {
    const folder = join(root, 'config/observability/runbooks');
    const pages = readdirSync(folder).filter((file) => file !== 'README.md');
    expect([...pages].sort()).toEqual([...alertNames].map((name) => `${name}.md`).sort());
    for (const name of alertNames) {
      const text = readFileSync(join(folder, `${name}.md`), 'utf8');
      expect(text.startsWith(`# ${name}\n`)).toBe(true);
      for (const part of ['## What it means', '## How to see it', '## What to do']) expect(text).toContain(part);
    }
    for (const rule of rules) if ('alert' in rule) expect(existsSync(join(root, rule.annotations.runbook))).toBe(true);
  });
});
