import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Plugin } from './framework/plugin.ts';
import { Scheduler } from './framework/scheduler.ts';
import type { BuiltScheduler, PickerConfig } from './picker-config.ts';

/** How long plugins of a former configuration go on, for requests that began with them. */
const graceMs = 10_000;

/** The scheduler of the configuration that counts now. */
export interface LiveScheduler {
  readonly scheduler: Scheduler;
  readonly built: BuiltScheduler;
  /**
   * Takes another configuration over, as a whole. Plugins that are the same in it keep what they know. When it cannot be
   * built nothing changes.
   *
   * @throws AppError as the configuration is wrong
   */
  replace(config: PickerConfig): Promise<void>;
  close(): Promise<void>;
}

/** @throws AppError as the configuration is wrong, or a plugin cannot work */
export async function startLiveScheduler(
  config: PickerConfig,
  build: (config: PickerConfig, previous: BuiltScheduler | undefined) => BuiltScheduler,
  log: Logger,
): Promise<LiveScheduler> {
  const leaving = new Map<NodeJS.Timeout, readonly Plugin[]>();

  const closeAll = async (plugins: readonly Plugin[]): Promise<void> => {
    for (const plugin of plugins) {
      try {
        await plugin.close?.();
      } catch (thrown) {
        log.warn({ plugin: plugin.name, error: messageOf(thrown) }, 'a plugin did not stop cleanly');
      }
    }
  };
  const make = async (of: PickerConfig, previous: BuiltScheduler | undefined) => {
    const built = build(of, previous);
    const added = built.plugins.filter((plugin) => !previous?.plugins.includes(plugin));
    try {
      const scheduler = new Scheduler(built.parts);
      await Promise.all(added.map((plugin) => plugin.ready?.()));
      for (const warning of [...of.warnings, ...built.warnings]) log.warn(warning);
      return { built, scheduler };
    } catch (thrown) {
      await closeAll(added);
      throw thrown;
    }
  };

  let current = await make(config, undefined);
  return {
    get scheduler() {
      return current.scheduler;
    },
    get built() {
      return current.built;
    },
    replace: async (next) => {
      const before = current.built;
      current = await make(next, before);
      const { plugins } = current.built;
      const gone = before.plugins.filter((plugin) => !plugins.includes(plugin));
      if (gone.length === 0) return;
      const timer = setTimeout(() => {
        leaving.delete(timer);
        void closeAll(gone);
      }, graceMs);
      timer.unref();
      leaving.set(timer, gone);
    },
    close: async () => {
      for (const [timer, plugins] of leaving) {
        clearTimeout(timer);
        await closeAll(plugins);
      }
      leaving.clear();
      await closeAll(current.built.plugins);
    },
  };
}
