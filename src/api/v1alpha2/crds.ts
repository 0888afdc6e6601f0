import {
  type CustomResourceDefinition,
  type PrinterColumn,
  relaxSchema,
  renderCrd,
  toStructuralSchema,
} from '../crd.ts';
import { llmInferenceServiceSpec } from './llm-inference-service.ts';
import { llmInferenceServiceConfigStatus } from './llm-inference-service-config.ts';
import { llmInferenceServiceStatus } from './status.ts';

/** The CustomResourceDefinitions of this API, as the API server takes them. */

const ready: PrinterColumn = {
  name: 'Ready',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].status',
};
const reason: PrinterColumn = {
  name: 'Reason',
  type: 'string',
  jsonPath: '.status.conditions[?(@.type=="Ready")].reason',
};
const age: PrinterColumn = { name: 'Age', type: 'date', jsonPath: '.metadata.creationTimestamp' };

const group = 'serving.kserve.io';
const version = 'v1alpha2';

export const llmInferenceServiceCrd = (): CustomResourceDefinition =>
  renderCrd({
    group,
    version,
    kind: 'LLMInferenceService',
    plural: 'llminferenceservices',
    singular: 'llminferenceservice',
    shortNames: ['llmisvc'],
    description: 'A large language model, served: model servers, routing and scheduling as one object.',
    columns: [
      { name: 'URL', type: 'string', jsonPath: '.status.url' },
      ready,
      reason,
      age,
      { name: 'URLs', type: 'string', jsonPath: '.status.addresses[*].url', priority: 1 },
    ],
    spec: toStructuralSchema(llmInferenceServiceSpec),
    status: toStructuralSchema(llmInferenceServiceStatus),
    isSpecRequired: true,
  });

export const llmInferenceServiceConfigCrd = (): CustomResourceDefinition =>
  renderCrd({
    group,
    version,
    kind: 'LLMInferenceServiceConfig',
    plural: 'llminferenceserviceconfigs',
    singular: 'llminferenceserviceconfig',
    description: 'A base that LLMInferenceServices are laid over.',
    columns: [ready, reason, age],
    spec: relaxSchema(toStructuralSchema(llmInferenceServiceSpec)),
    status: toStructuralSchema(llmInferenceServiceConfigStatus),
    isSpecRequired: false,
  });
