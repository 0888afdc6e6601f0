/** One thing that `make generate` makes: files by their path from the repository's root, with their whole content. */
export interface Generator {
  readonly name: string;
  generate(): Promise<ReadonlyMap<string, string>>;
}
