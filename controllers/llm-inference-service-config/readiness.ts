import { formatIssues } from '../../src/api/issue.ts';
import type { LLMInferenceService } from '../../src/api/v1alpha2/llm-inference-service.ts';
import type { LLMInferenceServiceConfig } from '../../src/api/v1alpha2/llm-inference-service-config.ts';
import { validateServiceConfig } from '../../src/api/v1alpha2/validate.ts';
import { checkTemplates, combine } from '../../src/render/combine.ts';

/** Whether services can be laid over a configuration, tried on one that has a bit of everything. */

const sampleName = 'sample';
/** No object can have these names. */
const underName = 'SAMPLE';
const noPrefix = 'NONE-';

/** What a configuration may expect of services; it lies below the configuration, which says otherwise where it likes. */
const under: LLMInferenceServiceConfig = {
  apiVersion: 'serving.kserve.io/v1alpha2',
  kind: 'LLMInferenceServiceConfig',
  metadata: { name: underName },
  spec: {
    replicas: 1,
    parallelism: { tensor: 1, pipeline: 1, data: 2, dataLocal: 1, dataRPCPort: 5555, expert: true },
    template: { containers: [{ name: 'main' }] },
    worker: { containers: [{ name: 'main' }] },
    kvCacheOffloading: { cpu: '1Gi' },
    tracing: {
      exporterEndpoint: 'http://otel-collector:4317',
      exporter: 'otlp',
      sampler: 'parentbased_traceidratio',
      samplerArg: '0.05',
    },
    router: { gateway: {}, route: {}, scheduler: {} },
    prefill: {
      replicas: 1,
      parallelism: { tensor: 1, pipeline: 1, data: 2, dataLocal: 1, dataRPCPort: 5555, expert: true },
      template: { containers: [{ name: 'main' }] },
      worker: { containers: [{ name: 'main' }] },
    },
  },
};

export interface Fault {
  readonly reason: string;
  readonly message: string;
}

/** Why no service can be laid over a configuration; undefined where a sample can, with TLS and without. */
export function findFault(config: LLMInferenceServiceConfig, systemNamespace: string): Fault | undefined {
  const spec = config.spec ?? {};
  const syntax = checkTemplates(spec, 'spec');
  if (syntax.length > 0) return { reason: 'InvalidTemplate', message: formatIssues(syntax) };
  const issues = validateServiceConfig(config);
  if (issues.length > 0) return { reason: 'InvalidSpec', message: formatIssues(issues) };
  for (const enableTls of [false, true]) {
    const tried = combine({
      service: sampleService(config.metadata.namespace ?? 'default', config.metadata.name),
      find: (name) => (name === underName ? under : name === config.metadata.name ? config : undefined),
      prefix: noPrefix,
      settings: {
        systemNamespace,
        gatewayName: 'sample-gateway',
        gatewayNamespace: systemNamespace,
        enableTls,
        modelRoutingHeader: 'X-Gateway-Model-Name',
      },
    });
    if (tried.kind !== 'combined')
      return {
        reason: 'InvalidRenderedConfig',
        message: `over a sample service: ${tried.message}`,
      };
  }
  return undefined;
}

function sampleService(namespace: string, configName: string): LLMInferenceService {
  return {
    apiVersion: 'serving.kserve.io/v1alpha2',
    kind: 'LLMInferenceService',
    metadata: { name: sampleName, namespace },
    spec: {
      model: { uri: 'hf://sample/model', name: sampleName },
      baseRefs: [{ name: underName }, { name: configName }],
    },
  };
}
