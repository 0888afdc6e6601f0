import type { V1Container, V1PodSpec } from '@kubernetes/client-node';
import type { Immutable } from '../fields.ts';

/** A container as an API object, readonly. */
export type Container = Immutable<V1Container>;

/** A pod's spec as an API object, readonly. */
export type PodSpec = Immutable<V1PodSpec>;

/** A pod spec that may be partial: what users write and renderers complete. */
export type PodTemplate = Immutable<Partial<V1PodSpec>>;
