import type { Clock } from '../../clock.ts';

/**
 * A clock that looks at the time once per turn of the event loop. A choice asks for the age of every endpoint's metrics
 * several times over, which would be the most costly thing it does.
 */
export function createTurnClock(clock: Clock): Clock {
  let nowMs = 0;
  let isFresh = false;
  const expire = (): void => {
    isFresh = false;
  };
  return {
    ...clock,
    now: () => {
      if (!isFresh) {
        nowMs = clock.now();
        isFresh = true;
        setImmediate(expire);
      }
      return nowMs;
    },
  };
}
