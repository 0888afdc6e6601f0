/** A model on the Hugging Face hub. */
export interface HuggingFaceModel {
  readonly organisation: string;
  readonly model: string;
  /** Branch, tag or commit; absent: the default branch. */
  readonly revision?: string;
}

/** Where weights are, and thereby how they come into a pod. */
export type ModelLocation =
  | ({ readonly kind: 'hub' } & HuggingFaceModel)
  /** A directory of a PersistentVolumeClaim in the service's namespace, mounted as it is. */
  | { readonly kind: 'claim'; readonly claim: string; readonly path?: string }
  /** A container image with the weights in /models; `isVolume`: always mounted as an image volume. */
  | { readonly kind: 'image'; readonly image: string; readonly isVolume: boolean }
  /** Anything that the storage initializer copies from object stores and web servers. */
  | { readonly kind: 'download'; readonly scheme: string; readonly uri: string };

/** The form of each scheme that works, as messages list them. */
const forms = {
  hf: 'hf://organisation/model[:revision]',
  pvc: 'pvc://claim[/path]',
  oci: 'oci://image',
  'oci+native': 'oci+native://image',
  s3: 's3://bucket[/path]',
  gs: 'gs://bucket[/path]',
  https: 'https://host/path',
  http: 'http://host/path',
  abfs: 'abfs://container@account/path',
  ms: 'ms://organisation/model',
} as const;

/** Every form that a URI may have. */
export const uriForms: readonly string[] = Object.values(forms);

/** The lower-case scheme of a URI, or undefined when the text has none. */
export function schemeOf(uri: string): string | undefined {
  return /^([a-zA-Z][a-zA-Z0-9+.-]*):\/\//.exec(uri)?.[1]?.toLowerCase();
}

/** The form that a URI of this scheme has to have, or undefined for a scheme that does not work. */
export function formOf(scheme: string): string | undefined {
  return Object.hasOwn(forms, scheme) ? forms[scheme as keyof typeof forms] : undefined;
}

/** The parts of `hf://organisation/model[:revision]`, or undefined when the text is not of that shape. */
export function parseHuggingFaceUri(uri: string): HuggingFaceModel | undefined {
  const match = /^hf:\/\/([A-Za-z0-9][\w.-]*)\/([A-Za-z0-9][\w.-]*)(?::([A-Za-z0-9][\w./-]*))?$/.exec(uri);
  if (!match) return undefined;
  const [, organisation = '', model = '', revision] = match;
  return { organisation, model, ...(revision === undefined ? {} : { revision }) };
}

/** What a URI says, or undefined when its scheme does not work or the text does not have the scheme's form. */
export function parseModelLocation(uri: string): ModelLocation | undefined {
  const [, scheme = '', rest = ''] = /^([a-z][a-z0-9+]*):\/\/(.+)$/.exec(uri) ?? [];
  // Blanks and control characters would end up in arguments and names.
  if (!/^[\x21-\x7e]+$/.test(rest) || formOf(scheme) === undefined) return undefined;
  switch (scheme) {
    case 'hf': {
      const hub = parseHuggingFaceUri(uri);
      return hub && { kind: 'hub', ...hub };
    }
    case 'pvc':
      return parseClaim(rest);
    case 'oci':
    case 'oci+native':
      return imageReference.test(rest) ? { kind: 'image', image: rest, isVolume: scheme !== 'oci' } : undefined;
    default:
      return /^[^/]+/.test(rest) && !hasDots(rest) ? { kind: 'download', scheme, uri } : undefined;
  }
}

/** `[host[:port]/]path[:tag][@digest]`, without the finer rules that a registry has. */
const imageReference =
  /^[A-Za-z0-9][\w.-]*(:\d+)?(\/[\w.-]+)*(:[\w][\w.-]{0,127})?(@[a-z0-9]+([+._-][a-z0-9]+)*:[0-9a-fA-F]{32,})?$/;

function parseClaim(rest: string): ModelLocation | undefined {
  const slash = rest.indexOf('/');
  const claim = slash < 0 ? rest : rest.slice(0, slash);
  const path = slash < 0 ? '' : rest.slice(slash + 1).replace(/^\/+|\/+$/g, '');
  if (!/^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$/.test(claim) || hasDots(path)) return undefined;
  return { kind: 'claim', claim, ...(path === '' ? {} : { path }) };
}

/** A mount refuses a path that climbs. */
function hasDots(path: string): boolean {
  return path.split('/').some((part) => part === '..' || part === '.');
}
