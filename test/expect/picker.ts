import { systemClock } from '../../src/clock.ts';
import { Cycle } from '../../src/epp/framework/cycle-state.ts';
import type { Decision } from '../../src/epp/framework/decision.ts';
import type { Endpoint, Load } from '../../src/epp/framework/endpoint.ts';
import { Scheduler } from '../../src/epp/framework/scheduler.ts';
import { buildScheduler, parsePickerConfig } from '../../src/epp/picker-config.ts';
import { pluginFactories } from '../../src/epp/plugins/register.ts';
import { parseCompletion, promptText } from '../../src/openai/request.ts';

export const idle: Load = {
  isKnown: true,
  waiting: 0,
  running: 0,
  kvUsage: 0,
  inFlight: 0,
  requestsPerSecond: 0,
  adapters: undefined,
  readAtMs: 0,
  isAvoided: false,
  custom: undefined,
  inFlightTokens: 0,
};

export function endpoint(name: string, load: Partial<Load> = {}, role?: string, isReady = true): Endpoint {
  const address = `10.244.1.${5 + Number(/\d+$/.exec(name)?.[0] ?? 0)}`;
  return {
    id: `default/${name}-rank-0`,
    name,
    namespace: 'default',
    address,
    port: 8000,
    hostPort: `${address}:8000`,
    labels: role === undefined ? {} : { 'llm-d.ai/role': role },
    isReady,
    load: { ...idle, ...load },
  };
}

export interface Ask {
  readonly prompt?: string;
  readonly session?: string;
  readonly model?: string;
  readonly headers?: Readonly<Record<string, string>>;
  /** The whole body of a chat request, instead of a prompt. */
  readonly chat?: Readonly<Record<string, unknown>>;
  readonly priority?: number;
}

/** A scheduler of a configuration, without a network: ask it, get the decision and the headers it adds. */
export function scheduler(yaml: string, random: () => number = () => 0) {
  const config = parsePickerConfig(yaml, 'test');
  const { parts } = buildScheduler(config, { factories: pluginFactories, clock: systemClock, random });
  const real = new Scheduler(parts);
  const ask = (endpoints: readonly Endpoint[], ask: Ask = {}, pool = endpoints) => {
    const body = ask.chat ?? { model: ask.model ?? 'llama', prompt: ask.prompt ?? 'Hello!' };
    const api = ask.chat === undefined ? 'completions' : 'chat';
    const completion = parseCompletion(api, Buffer.from(JSON.stringify(body)));
    const headers = new Map<string, string>();
    const cycle = new Cycle(
      {
        id: 'r1',
        model: completion.model,
        sessionId: ask.session,
        completion,
        header: (name) => ask.headers?.[name],
        promptText: () => promptText(completion),
      },
      pool,
      false,
      ask.priority,
    );
    const decision: Decision = real.schedule(cycle, endpoints, headers);
    return { decision, headers, cycle };
  };
  return Object.assign(ask, { parts });
}

export const yamlOf = (plugins: readonly string[], profile: readonly string[]): string => `
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [${plugins.join(', ')}]
schedulingProfiles: [{name: default, plugins: [${profile.join(', ')}]}]
`;
