import type { PluginFactory } from '../framework/plugin.ts';
import { createLatencySloAdmitter } from './admission/latency-slo-admitter.ts';
import { createProbabilisticAdmitter } from './admission/probabilistic-admitter.ts';
import { createAlwaysDisaggMultimodalDecider } from './decider/always-disagg-multimodal-decider.ts';
import { createAlwaysDisaggPdDecider } from './decider/always-disagg-pd-decider.ts';
import { createPrefixBasedPdDecider } from './decider/prefix-based-pd-decider.ts';
import { createGlobalStrictFairnessPolicy } from './fairness/global-strict-fairness-policy.ts';
import { createProgramAwareFairness } from './fairness/program-aware-fairness.ts';
import { createRoundRobinFairnessPolicy } from './fairness/round-robin-fairness-policy.ts';
import { createByLabelFilter } from './filter/by-label-filter.ts';
import { createDecodeFilter } from './filter/decode-filter.ts';
import { createEncodeFilter } from './filter/encode-filter.ts';
import { createEndpointAttributeFilter } from './filter/endpoint-attribute-filter.ts';
import { createHeaderBasedTestingFilter } from './filter/header-based-testing-filter.ts';
import { createLabelSelectorFilter } from './filter/label-selector-filter.ts';
import { createPrefillFilter } from './filter/prefill-filter.ts';
import { createPrefixCacheAffinityFilter } from './filter/prefix-cache-affinity-filter.ts';
import { createSloHeadroomTierFilter } from './filter/slo-headroom-tier-filter.ts';
import { createTopologyAffinityFilter } from './filter/topology-affinity-filter.ts';
import { createUtilizationFilter } from './filter/utilization-filter.ts';
import { createDestinationEndpointServedVerifier } from './header/destination-endpoint-served-verifier.ts';
import { createDisaggHeadersHandler } from './header/disagg-headers-handler.ts';
import { createPredictedLatencyProducer } from './latency/predicted-latency-producer.ts';
import { createModuleScorer } from './module/module-scorer.ts';
import { createEdfOrderingPolicy } from './ordering/edf-ordering-policy.ts';
import { createFcfsOrderingPolicy } from './ordering/fcfs-ordering-policy.ts';
import { createSloDeadlineOrderingPolicy } from './ordering/slo-deadline-ordering-policy.ts';
import { createMaxScorePicker } from './picker/max-score-picker.ts';
import { createRandomPicker } from './picker/random-picker.ts';
import { createWeightedRandomPicker } from './picker/weighted-random-picker.ts';
import {
  createPrecisePrefixCacheProducer,
  createPrecisePrefixCacheScorer,
} from './precise/precise-prefix-cache-producer.ts';
import { createApproxPrefixCacheProducer } from './producer/approx-prefix-cache-producer.ts';
import { createInflightLoadProducer } from './producer/inflight-load-producer.ts';
import { createMmEmbeddingsCacheProducer } from './producer/mm-embeddings-cache-producer.ts';
import { createP2pSourceProducer } from './producer/p2p-source-producer.ts';
import { createSessionIdProducer } from './producer/session-id-producer.ts';
import { createTokenProducer } from './producer/token-producer.ts';
import { createDataParallelProfileHandler } from './profile/data-parallel-profile-handler.ts';
import { createDisaggProfileHandler } from './profile/disagg-profile-handler.ts';
import { createHeaderProfileHandler } from './profile/header-profile-handler.ts';
import { createSingleProfileHandler } from './profile/single-profile-handler.ts';
import { createConcurrencyDetector } from './saturation/concurrency-detector.ts';
import { createUtilizationDetector } from './saturation/utilization-detector.ts';
import { createActiveRequestScorer } from './scorer/active-request-scorer.ts';
import { createContextLengthAware } from './scorer/context-length-aware.ts';
import { createCriticalityScorer } from './scorer/criticality-scorer.ts';
import { createEndpointAttributeScorer } from './scorer/endpoint-attribute-scorer.ts';
import { createHeaderLabelAffinityScorer } from './scorer/header-label-affinity-scorer.ts';
import { createKvCacheUtilizationScorer } from './scorer/kv-cache-utilization-scorer.ts';
import { createLatencyScorer } from './scorer/latency-scorer.ts';
import { createLoadAwareScorer } from './scorer/load-aware-scorer.ts';
import { createLoraAffinityScorer } from './scorer/lora-affinity-scorer.ts';
import { createMmEmbeddingsCacheScorer } from './scorer/mm-embeddings-cache-scorer.ts';
import { createNoHitLruScorer } from './scorer/no-hit-lru-scorer.ts';
import { createPrefixCacheScorer } from './scorer/prefix-cache-scorer.ts';
import { createQueueScorer } from './scorer/queue-scorer.ts';
import { createRunningRequestsSizeScorer } from './scorer/running-requests-size-scorer.ts';
import { createTokenLoadScorer } from './scorer/token-load-scorer.ts';
import { createTopologyAffinityScorer } from './scorer/topology-affinity-scorer.ts';
import { createResidentSessionScorer } from './session/resident-session-scorer.ts';
import { createSessionAffinityFilter, createSessionAffinityScorer } from './session/session-affinity.ts';
import { createPriorityHoldbackPolicy } from './usage-limit/priority-holdback-policy.ts';
import { createSoftReflectiveCeilingPolicy } from './usage-limit/soft-reflective-ceiling-policy.ts';
import { createStaticUsageLimitPolicy } from './usage-limit/static-usage-limit-policy.ts';

/** Every plugin type that a configuration may name. */
export const pluginFactories: Readonly<Record<string, PluginFactory>> = {
  // Which profiles run.
  'single-profile-handler': createSingleProfileHandler,
  'disagg-profile-handler': createDisaggProfileHandler,
  'data-parallel-profile-handler': createDataParallelProfileHandler,
  'header-profile-handler': createHeaderProfileHandler,
  // Whether a request is served at all.
  'latency-slo-admitter': createLatencySloAdmitter,
  'probabilistic-admitter': createProbabilisticAdmitter,
  // Whether prefill and encoding are separate.
  'always-disagg-multimodal-decider': createAlwaysDisaggMultimodalDecider,
  'always-disagg-pd-decider': createAlwaysDisaggPdDecider,
  'prefix-based-pd-decider': createPrefixBasedPdDecider,
  // Who may serve.
  'decode-filter': createDecodeFilter,
  'prefill-filter': createPrefillFilter,
  'encode-filter': createEncodeFilter,
  'label-selector-filter': createLabelSelectorFilter,
  'by-label-selector': createLabelSelectorFilter,
  'by-label': createByLabelFilter,
  'utilization-filter': createUtilizationFilter,
  'prefix-cache-affinity-filter': createPrefixCacheAffinityFilter,
  'session-affinity-filter': createSessionAffinityFilter,
  'slo-headroom-tier-filter': createSloHeadroomTierFilter,
  'endpoint-attribute-filter': createEndpointAttributeFilter,
  'topology-affinity-filter': createTopologyAffinityFilter,
  'header-based-testing-filter': createHeaderBasedTestingFilter,
  // Who serves best: what is cached, what is busy, what matters.
  'prefix-cache-scorer': createPrefixCacheScorer,
  'session-affinity-scorer': createSessionAffinityScorer,
  'resident-session-scorer': createResidentSessionScorer,
  'no-hit-lru-scorer': createNoHitLruScorer,
  'lora-affinity-scorer': createLoraAffinityScorer,
  'queue-scorer': createQueueScorer,
  'running-requests-size-scorer': createRunningRequestsSizeScorer,
  'kv-cache-utilization-scorer': createKvCacheUtilizationScorer,
  'active-request-scorer': createActiveRequestScorer,
  'token-load-scorer': createTokenLoadScorer,
  'context-length-aware': createContextLengthAware,
  'latency-scorer': createLatencyScorer,
  'mm-embeddings-cache-scorer': createMmEmbeddingsCacheScorer,
  'topology-affinity-scorer': createTopologyAffinityScorer,
  'endpoint-attribute-scorer': createEndpointAttributeScorer,
  'header-label-affinity-scorer': createHeaderLabelAffinityScorer,
  'load-aware-scorer': createLoadAwareScorer,
  'criticality-scorer': createCriticalityScorer,
  module: createModuleScorer,
  // Who is chosen.
  'max-score-picker': createMaxScorePicker,
  'weighted-random-picker': createWeightedRandomPicker,
  'random-picker': createRandomPicker,
  // What the above need to know, and what the pod is told.
  'token-producer': createTokenProducer,
  'inflight-load-producer': createInflightLoadProducer,
  'predicted-latency-producer': createPredictedLatencyProducer,
  'mm-embeddings-cache-producer': createMmEmbeddingsCacheProducer,
  'session-id-producer': createSessionIdProducer,
  'p2p-source-producer': createP2pSourceProducer,
  tokenizer: createTokenProducer,
  'precise-prefix-cache-producer': createPrecisePrefixCacheProducer,
  'precise-prefix-cache-scorer': createPrecisePrefixCacheScorer,
  'approx-prefix-cache-producer': createApproxPrefixCacheProducer,
  'disagg-headers-handler': createDisaggHeadersHandler,
  'prefill-header-handler': createDisaggHeadersHandler,
  'destination-endpoint-served-verifier': createDestinationEndpointServedVerifier,
  // When a request goes: how full the pool is, whose turn it is, and who is held back.
  'utilization-detector': createUtilizationDetector,
  'concurrency-detector': createConcurrencyDetector,
  'fcfs-ordering-policy': createFcfsOrderingPolicy,
  'edf-ordering-policy': createEdfOrderingPolicy,
  'slo-deadline-ordering-policy': createSloDeadlineOrderingPolicy,
  'global-strict-fairness-policy': createGlobalStrictFairnessPolicy,
  'round-robin-fairness-policy': createRoundRobinFairnessPolicy,
  'program-aware-fairness': createProgramAwareFairness,
  'static-usage-limit-policy': createStaticUsageLimitPolicy,
  'priority-holdback-policy': createPriorityHoldbackPolicy,
  'soft-reflective-ceiling-policy': createSoftReflectiveCeilingPolicy,
};
