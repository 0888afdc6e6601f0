import type { KubeObject, Manifest } from '../../src/kube/object.ts';

interface Templated extends KubeObject {
  readonly spec?: { readonly template?: { readonly spec?: { readonly serviceAccountName?: string } } };
}

/** The account of pods that name none. */
const defaultAccount = 'default';

/**
 * The manifest of a Deployment whose pods are to leave their ServiceAccount, naming the default one. An API server keeps
 * the name in an older field that it fills itself, so that a name which is merely left out stays, and pods would ask for an account
 * that is deleted by then.
 */
export function leaveAccount(desired: Manifest, live: KubeObject | undefined): Manifest {
  if (desired.kind !== 'Deployment') return desired;
  const before = (live as Templated | undefined)?.spec?.template?.spec?.serviceAccountName;
  const { spec } = desired as unknown as Templated;
  if (before === undefined || before === defaultAccount || spec?.template?.spec === undefined) return desired;
  if (spec.template.spec.serviceAccountName !== undefined) return desired;
  const template = { ...spec.template, spec: { ...spec.template.spec, serviceAccountName: defaultAccount } };
  return { ...desired, spec: { ...spec, template } };
}
