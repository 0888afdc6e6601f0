/** A model on the Hugging Face hub. */
export interface HuggingFaceModel {
  readonly organisation: string;
  readonly model: string;
  /** Branch, tag or commit; absent: the default branch. */
  readonly revision?: string;
}

/** Schemes of the KServe API that name a place for weights but that nothing here brings into pods yet. */
export const knownUriSchemes: readonly string[] = [
  's3',
  'gs',
  'pvc',
  'oci',
  'oci+native',
  'oci+fetch',
  'http',
  'https',
  'azure',
  'abfs',
  'hdfs',
  'ms',
];

/** The lower-case scheme of a URI, or undefined when the text has none. */
export function schemeOf(uri: string): string | undefined {
  return /^([a-zA-Z][a-zA-Z0-9+.-]*):\/\//.exec(uri)?.[1]?.toLowerCase();
}

/** The parts of `hf://organisation/model[:revision]`, or undefined when the text is not of that shape. */
export function parseHuggingFaceUri(uri: string): HuggingFaceModel | undefined {
  const match = /^hf:\/\/([A-Za-z0-9][\w.-]*)\/([A-Za-z0-9][\w.-]*)(?::([A-Za-z0-9][\w./-]*))?$/.exec(uri);
  if (!match) return undefined;
  const [, organisation = '', model = '', revision] = match;
  return { organisation, model, ...(revision === undefined ? {} : { revision }) };
}
