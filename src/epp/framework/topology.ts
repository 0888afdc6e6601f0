import type { Endpoint } from './endpoint.ts';

/** How near two endpoints are, from the nearest. */
export const levels = ['host', 'rack', 'zone', 'region'] as const;
export type Level = (typeof levels)[number];

/** Labels that tell an endpoint's place, by level. */
export type TopologyLabels = Readonly<Record<Level, string>>;

export const defaultTopologyLabels: TopologyLabels = {
  host: 'kubernetes.io/hostname',
  rack: 'topology.kubernetes.io/rack',
  zone: 'topology.kubernetes.io/zone',
  region: 'topology.kubernetes.io/region',
};

/** The nearest level at which both are in the same place; undefined when there is none, or nothing is known. */
export function sharedLevel(a: Endpoint, b: Endpoint, labels: TopologyLabels): Level | undefined {
  return levels.find((level) => {
    const place = a.labels[labels[level]];
    return place !== undefined && place === b.labels[labels[level]];
  });
}
