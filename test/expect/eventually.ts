import { messageOf } from '../../src/errors.ts';

/** Repeats an assertion until it holds; after `timeoutMs` its last failure is the test's. */
export async function eventually<T>(assert: () => T | Promise<T>, timeoutMs = 15_000): Promise<T> {
  const endMs = Date.now() + timeoutMs;
  for (;;) {
    try {
      return await assert();
    } catch (thrown) {
      if (Date.now() > endMs) throw thrown instanceof Error ? thrown : new Error(messageOf(thrown));
      await new Promise((resolve) => setTimeout(resolve, 25));
    }
  }
}
