import { type CustomResourceDefinition, type PrinterColumn, renderCrd, toStructuralSchema } from '../crd.ts';
import { inferencePoolSpec, inferencePoolStatus, xInferencePoolSpec, xInferencePoolStatus } from './inference-pool.ts';

/** InferencePool in both groups, for a cluster that lacks the published definitions. */

const age: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };
const names = { kind: 'InferencePool', plural: 'inferencepools', singular: 'inferencepool' };

export const inferencePoolCrd = (): CustomResourceDefinition =>
  renderCrd({
    ...names,
    group: 'inference.networking.k8s.io',
    version: 'v1',
    shortNames: ['infpool'],
    description: 'Pods that serve the same models, and the endpoint picker that chooses among them.',
    // The API server guards groups that end in k8s.io; this is the truthful answer for a copy of our own.
    annotations: { 'api-approved.kubernetes.io': 'unapproved, written for the embedded cluster only' },
    columns: [age],
    spec: toStructuralSchema(inferencePoolSpec),
    status: toStructuralSchema(inferencePoolStatus),
    isSpecRequired: true,
  });

export const xInferencePoolCrd = (): CustomResourceDefinition =>
  renderCrd({
    ...names,
    group: 'inference.networking.x-k8s.io',
    version: 'v1alpha2',
    shortNames: ['xinfpool'],
    description: 'Pods that serve the same models, and the endpoint picker that chooses among them.',
    columns: [age],
    spec: toStructuralSchema(xInferencePoolSpec),
    status: toStructuralSchema(xInferencePoolStatus),
    isSpecRequired: true,
  });
