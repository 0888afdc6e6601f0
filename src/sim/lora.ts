import { AppError } from '../errors.ts';
import { hashText } from './tokenizer.ts';

export interface Adapter {
  /** From 1; each load is a new one. */
  readonly id: number;
  readonly name: string;
  readonly path: string;
  /** Sets the adapter's blocks in the cache apart, also from those of one of the same name that was here before. */
  readonly cacheRoot: number;
  readonly createdSeconds: number;
}

/**
 * Reads `--lora-modules`: `name=path` or `{"name": …, "path": …}`.
 *
 * @throws AppError `invalid`
 */
export function parseLoraModule(text: string): { readonly name: string; readonly path: string } {
  if (text.startsWith('{')) {
    let parsed: { readonly name?: unknown; readonly path?: unknown } = {};
    try {
      parsed = JSON.parse(text);
    } catch {
      // Told below.
    }
    if (typeof parsed.name === 'string' && parsed.name && typeof parsed.path === 'string' && parsed.path) {
      return { name: parsed.name, path: parsed.path };
    }
  } else {
    const at = text.indexOf('=');
    if (at > 0 && at < text.length - 1) return { name: text.slice(0, at), path: text.slice(at + 1) };
  }
  throw new AppError('invalid', `--lora-modules: "${text}" must be NAME=PATH or {"name":"NAME","path":"PATH"}`);
}

/** The LoRA adapters that are served besides the model. */
export class Adapters {
  readonly #byName = new Map<string, Adapter>();
  readonly #nowSeconds: () => number;
  #serial = 0;

  constructor(nowSeconds: () => number, initial: readonly { readonly name: string; readonly path: string }[]) {
    this.#nowSeconds = nowSeconds;
    for (const { name, path } of initial) this.#put(name, path);
  }

  get(name: string): Adapter | undefined {
    return this.#byName.get(name);
  }

  list(): readonly Adapter[] {
    return [...this.#byName.values()];
  }

  /** @throws AppError `invalid` when fields are missing or the name is taken */
  load(body: Readonly<Record<string, unknown>>): Adapter {
    const { lora_name: name, lora_path: path } = body;
    if (typeof name !== 'string' || name === '' || typeof path !== 'string' || path === '') {
      throw new AppError('invalid', 'Both lora_name and lora_path must be provided.');
    }
    if (this.#byName.has(name) && body.load_inplace !== true) {
      throw new AppError('invalid', `The lora adapter '${name}' has already been loaded.`);
    }
    return this.#put(name, path);
  }

  /** @throws AppError `invalid` without a name, `notFound` when there is no such adapter */
  unload(body: Readonly<Record<string, unknown>>): string {
    const name = body.lora_name;
    if (typeof name !== 'string' || name === '') throw new AppError('invalid', 'lora_name must be provided.');
    if (!this.#byName.delete(name)) throw new AppError('notFound', `The lora adapter '${name}' cannot be found.`);
    return name;
  }

  #put(name: string, path: string): Adapter {
    const cacheRoot = hashText(`lora\n${name}\n${this.#serial++}`);
    const adapter = { id: this.#serial, name, path, cacheRoot, createdSeconds: Math.floor(this.#nowSeconds()) };
    this.#byName.set(name, adapter);
    return adapter;
  }
}
