import type { PodSpec } from '../../api/foreign/pod.ts';
import { components } from '../../api/labels.ts';
import { type DeviceClaim, deviceClaimOf } from '../../api/v1alpha2/devices.ts';
import type { Manifest } from '../../kube/object.ts';
import type { Context } from '../input.ts';
import { componentLabels } from '../labels.ts';
import { manifestOf, ownerOf } from '../manifest.ts';

/** Devices by dynamic resource allocation: one template of claims for all pods of a service, and each pod's claim of it. */

/** The claim in a pod. A claim of the user's of this name is left as it is. */
const claimName = 'managed-device';

/** The template that the claims of the pods are made of. */
export function renderDeviceClaims(context: Context): readonly Manifest[] {
  const claim = deviceClaimOf(context.service);
  if (!claim) return [];
  const { deviceClass, count, selectors } = claim;
  return [
    manifestOf(
      { group: 'resource.k8s.io', version: 'v1', kind: 'ResourceClaimTemplate' },
      {
        name: context.names.deviceClaims,
        namespace: context.namespace,
        labels: componentLabels(context.name, components.workload),
        ownerReferences: ownerOf(context.service),
      },
      {
        spec: {
          spec: {
            devices: {
              requests: [
                {
                  name: 'device',
                  exactly: {
                    deviceClassName: deviceClass,
                    ...(count > 1 ? { count } : {}),
                    ...(selectors.length > 0
                      ? { selectors: selectors.map((expression) => ({ cel: { expression } })) }
                      : {}),
                  },
                },
              ],
            },
          },
        },
      },
    ),
  ];
}

/** The pod with its claim, and the claim in the container that is to have the devices. */
export function withDevices(context: Context, pod: PodSpec): PodSpec {
  const claim = deviceClaimOf(context.service);
  if (!claim) return pod;
  const own = pod.resourceClaims ?? [];
  const isThere = own.some(({ name }) => name === claimName);
  return {
    ...pod,
    resourceClaims: isThere
      ? own
      : [...own, { name: claimName, resourceClaimTemplateName: context.names.deviceClaims }],
    containers: pod.containers.map((container) => {
      const claims = container.resources?.claims ?? [];
      if (container.name !== claim.container || claims.some(({ name }) => name === claimName)) return container;
      return { ...container, resources: { ...container.resources, claims: [...claims, { name: claimName }] } };
    }),
  };
}

/** What a claim asks for, on one line: a pod keeps the claim that it was made with. */
export function describeClaim({ deviceClass, count, selectors }: DeviceClaim): string {
  return [`${count} ${deviceClass}`, ...selectors].join('; ');
}
