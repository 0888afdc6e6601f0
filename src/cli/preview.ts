import { type OperatorConfig, operatorProgram, operatorSettings } from '../../controllers/config.ts';
import { startControllers } from '../../controllers/index.ts';
import type { LLMInferenceService, LLMInferenceServiceStatus } from '../api/v1alpha2/llm-inference-service.ts';
import { AppError } from '../errors.ts';
import { parseProgram } from '../flags.ts';
import type { Client } from '../kube/client.ts';
import type { KubeObject } from '../kube/object.ts';
import { resources } from '../kube/resources.ts';
import type { Logger } from '../telemetry/log.ts';
import { createDryClient, type Source, type Write } from './dry-client.ts';

/** What the operator would do about a service, found out by letting it: its own controller runs against a client that writes nothing. */
export interface Preview {
  /** Objects that it would write or delete, status aside. */
  readonly writes: readonly Write[];
  /** The status that it would write at once; undefined when that would stay. */
  readonly status: Partial<LLMInferenceServiceStatus> | undefined;
}

/** The controller looks again when what it asked for has been read; more rounds than references follow each other. */
const rounds = 3;
const settleMs = 50;
const syncTimeoutMs = 30_000;

/** @throws AppError of the first read that `source` refuses */
export async function previewService(options: {
  readonly source: Source;
  readonly config: OperatorConfig;
  /** As it would be stored. */
  readonly service: LLMInferenceService;
  readonly others?: readonly KubeObject[];
  readonly log: Logger;
  readonly signal: AbortSignal;
}): Promise<Preview> {
  const { source, config, service, others = [], log, signal } = options;
  const { namespace = 'default', name } = service.metadata;
  const dry = createDryClient(source, [service as unknown as KubeObject, ...others]);
  const set = await startControllers(config, { client: dry.client, log, events: { record: () => {} } }, signal);
  const informers = [...set.informers, ...set.optionalInformers];
  try {
    const timer = AbortSignal.timeout(syncTimeoutMs);
    const tooLong = new Promise<never>((_, reject) => {
      const fail = () =>
        reject(
          signal.aborted
            ? signal.reason
            : new AppError('timeout', `the cluster could not be read within ${syncTimeoutMs / 1000} s`),
        );
      AbortSignal.any([timer, signal]).addEventListener('abort', fail, { once: true });
    });
    tooLong.catch(() => {});
    await Promise.race([Promise.all(set.informers.map(({ synced }) => synced)), dry.denied, tooLong]);
    const controller = set.controllers.find((one) => one.name === 'llm-inference-service');
    if (!controller) throw new AppError('internal', 'the operator has no controller of services');
    for (let round = 0; round < rounds; round++) {
      await Promise.race([controller.reconcile({ namespace, name }, signal), dry.denied, tooLong]);
      await new Promise((resolve) => setTimeout(resolve, settleMs));
    }
  } finally {
    for (const informer of informers) informer.close();
  }
  const isStatus = ({ verb, resource }: Write) => verb === 'status' && resource === resources.llmInferenceServices;
  const status = dry.writes().find(isStatus)?.object?.status as Partial<LLMInferenceServiceStatus> | undefined;
  return { writes: dry.writes().filter(({ verb }) => verb !== 'status'), status };
}

/** The operator's settings where nothing says otherwise. */
export function defaultConfig(): OperatorConfig {
  return Object.fromEntries(
    Object.entries(operatorSettings).map(([key, setting]) => [key, setting.default]),
  ) as unknown as OperatorConfig;
}

interface OperatorDeployment extends KubeObject {
  readonly spec?: {
    readonly template?: {
      readonly spec?: {
        readonly containers?: readonly {
          readonly args?: readonly string[];
          readonly env?: readonly { readonly name: string; readonly value?: string }[];
        }[];
      };
    };
  };
}

/** The settings of the operator that runs in a cluster, from its Deployment; the defaults where there is none. */
export async function readOperatorConfig(client: Client, signal: AbortSignal): Promise<OperatorConfig> {
  const { items } = await client.list<OperatorDeployment>(
    resources.deployments,
    { labelSelector: 'app.kubernetes.io/name=signalbox' },
    signal,
  );
  const [deployment] = items;
  const container = deployment?.spec?.template?.spec?.containers?.[0];
  if (!deployment || !container) return defaultConfig();
  // Its namespace comes to the pod by the downward API.
  const env = { POD_NAMESPACE: deployment.metadata.namespace };
  const given = (container.env ?? []).flatMap(({ name, value }) =>
    value === undefined ? [] : [[name, value] as const],
  );
  const parsed = parseProgram(operatorProgram, container.args ?? [], { ...env, ...Object.fromEntries(given) });
  return parsed.kind === 'config' ? parsed.config : defaultConfig();
}
