/** The part of Grafana's dashboard model that is used here, and a builder that lays panels out. */

export type Unit = 'short' | 'reqps' | 's' | 'percentunit' | 'bytes' | 'ops' | 'dtdurations';

export interface PanelQuery {
  readonly expr: string;
  /** Such as `{{pod}}`. */
  readonly legend: string;
}

export interface PanelSpec {
  readonly title: string;
  readonly kind: 'timeseries' | 'stat' | 'table';
  readonly unit: Unit;
  readonly queries: readonly PanelQuery[];
  /** Of 24 columns. */
  readonly width: number;
  readonly description?: string;
}

export interface DashboardSpec {
  readonly uid: string;
  readonly title: string;
  readonly variables: readonly Variable[];
  readonly rows: readonly { readonly title: string; readonly panels: readonly PanelSpec[] }[];
}

export interface Variable {
  readonly name: string;
  /** `label_values(SELECTOR, LABEL)` */
  readonly query: string;
  readonly isMulti: boolean;
}

const columns = 24;
const panelHeight = 8;
const datasource = { type: 'prometheus', uid: '$datasource' } as const;

/** A dashboard as Grafana imports it; ids are stable, so that what is generated differs only where its source does. */
export function renderDashboard({ uid, title, variables, rows }: DashboardSpec): Readonly<Record<string, unknown>> {
  const panels: unknown[] = [];
  let y = 0;
  for (const row of rows) {
    panels.push({
      id: panels.length + 1,
      type: 'row',
      title: row.title,
      collapsed: false,
      gridPos: { h: 1, w: columns, x: 0, y },
      panels: [],
    });
    y++;
    let x = 0;
    for (const panel of row.panels) {
      if (x + panel.width > columns) {
        x = 0;
        y += panelHeight;
      }
      panels.push(renderPanel(panel, panels.length + 1, x, y));
      x += panel.width;
    }
    y += panelHeight;
  }
  return {
    uid,
    title,
    tags: ['signalbox'],
    schemaVersion: 39,
    version: 1,
    editable: true,
    refresh: '30s',
    time: { from: 'now-1h', to: 'now' },
    timezone: 'browser',
    links: [{ type: 'dashboards', title: 'Signalbox', tags: ['signalbox'], asDropdown: true, keepTime: true }],
    templating: {
      list: [
        { name: 'datasource', label: 'Data source', type: 'datasource', query: 'prometheus' },
        ...variables.map(({ name, query, isMulti }) => ({
          name,
          label: `${name.slice(0, 1).toUpperCase()}${name.slice(1)}`,
          type: 'query',
          datasource,
          definition: query,
          query: { query, refId: name },
          refresh: 2,
          sort: 1,
          multi: isMulti,
          includeAll: isMulti,
          ...(isMulti ? { allValue: '.*', current: { text: 'All', value: '$__all' } } : {}),
        })),
      ],
    },
    panels,
  };
}

function renderPanel({ title, kind, unit, queries, width, description }: PanelSpec, id: number, x: number, y: number) {
  return {
    id,
    type: kind,
    title,
    ...(description ? { description } : {}),
    datasource,
    gridPos: { h: panelHeight, w: width, x, y },
    fieldConfig: {
      defaults: { unit, min: 0, ...(unit === 'percentunit' ? { max: 1 } : {}) },
      overrides: [],
    },
    options:
      kind === 'stat'
        ? { reduceOptions: { calcs: ['lastNotNull'] }, textMode: 'value_and_name' }
        : kind === 'table'
          ? { showHeader: true }
          : { legend: { displayMode: 'list', placement: 'bottom' }, tooltip: { mode: 'multi', sort: 'desc' } },
    targets: queries.map(({ expr, legend }, i) => ({
      refId: String.fromCharCode('A'.charCodeAt(0) + i),
      datasource,
      expr,
      legendFormat: legend,
      ...(kind === 'table' ? { format: 'table', instant: true } : { range: true }),
    })),
  };
}
