import type { PluginFactory } from '../framework/plugin.ts';
import { createAlwaysDisaggPdDecider } from './decider/always-disagg-pd-decider.ts';
import { createPrefixBasedPdDecider } from './decider/prefix-based-pd-decider.ts';
import { createGlobalStrictFairnessPolicy } from './fairness/global-strict-fairness-policy.ts';
import { createProgramAwareFairness } from './fairness/program-aware-fairness.ts';
import { createRoundRobinFairnessPolicy } from './fairness/round-robin-fairness-policy.ts';
import { createByLabelFilter } from './filter/by-label-filter.ts';
import { createDecodeFilter } from './filter/decode-filter.ts';
import { createLabelSelectorFilter } from './filter/label-selector-filter.ts';
import { createPrefillFilter } from './filter/prefill-filter.ts';
import { createPrefixCacheAffinityFilter } from './filter/prefix-cache-affinity-filter.ts';
import { createSessionAffinityFilter } from './filter/session-affinity-filter.ts';
import { createUtilizationFilter } from './filter/utilization-filter.ts';
import { createDisaggHeadersHandler } from './header/disagg-headers-handler.ts';
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
import { createTokenProducer } from './producer/token-producer.ts';
import { createDisaggProfileHandler } from './profile/disagg-profile-handler.ts';
import { createSingleProfileHandler } from './profile/single-profile-handler.ts';
import { createConcurrencyDetector } from './saturation/concurrency-detector.ts';
import { createUtilizationDetector } from './saturation/utilization-detector.ts';
import { createActiveRequestScorer } from './scorer/active-request-scorer.ts';
import { createContextLengthAware } from './scorer/context-length-aware.ts';
import { createCriticalityScorer } from './scorer/criticality-scorer.ts';
import { createKvCacheUtilizationScorer } from './scorer/kv-cache-utilization-scorer.ts';
import { createLoadAwareScorer } from './scorer/load-aware-scorer.ts';
import { createLoraAffinityScorer } from './scorer/lora-affinity-scorer.ts';
import { createNoHitLruScorer } from './scorer/no-hit-lru-scorer.ts';
import { createPrefixCacheScorer } from './scorer/prefix-cache-scorer.ts';
import { createQueueScorer } from './scorer/queue-scorer.ts';
import { createRunningRequestsSizeScorer } from './scorer/running-requests-size-scorer.ts';
import { createSessionAffinityScorer } from './scorer/session-affinity-scorer.ts';
import { createTokenLoadScorer } from './scorer/token-load-scorer.ts';
import { createPriorityHoldbackPolicy } from './usage-limit/priority-holdback-policy.ts';
import { createSoftReflectiveCeilingPolicy } from './usage-limit/soft-reflective-ceiling-policy.ts';
import { createStaticUsageLimitPolicy } from './usage-limit/static-usage-limit-policy.ts';

/** Every plugin type that a configuration may name. */
export const pluginFactories: Readonly<Record<string, PluginFactory>> = {
  // Which profiles run.
  'single-profile-handler': createSingleProfileHandler,
  'disagg-profile-handler': createDisaggProfileHandler,
  // Whether prefill is separate.
  'always-disagg-pd-decider': createAlwaysDisaggPdDecider,
  'prefix-based-pd-decider': createPrefixBasedPdDecider,
  // Who may serve.
  'decode-filter': createDecodeFilter,
  'prefill-filter': createPrefillFilter,
  'label-selector-filter': createLabelSelectorFilter,
  'by-label-selector': createLabelSelectorFilter,
  'by-label': createByLabelFilter,
  'utilization-filter': createUtilizationFilter,
  'prefix-cache-affinity-filter': createPrefixCacheAffinityFilter,
  'session-affinity-filter': createSessionAffinityFilter,
  // Who serves best: what is cached, what is busy, what matters.
  'prefix-cache-scorer': createPrefixCacheScorer,
  'session-affinity-scorer': createSessionAffinityScorer,
  'no-hit-lru-scorer': createNoHitLruScorer,
  'lora-affinity-scorer': createLoraAffinityScorer,
  'queue-scorer': createQueueScorer,
  'running-requests-size-scorer': createRunningRequestsSizeScorer,
  'kv-cache-utilization-scorer': createKvCacheUtilizationScorer,
  'active-request-scorer': createActiveRequestScorer,
  'token-load-scorer': createTokenLoadScorer,
  'context-length-aware': createContextLengthAware,
  'load-aware-scorer': createLoadAwareScorer,
  'criticality-scorer': createCriticalityScorer,
  module: createModuleScorer,
  // Who is chosen.
  'max-score-picker': createMaxScorePicker,
  'weighted-random-picker': createWeightedRandomPicker,
  'random-picker': createRandomPicker,
  // What the above need to know, and what the pod is told.
  'token-producer': createTokenProducer,
  tokenizer: createTokenProducer,
  'precise-prefix-cache-producer': createPrecisePrefixCacheProducer,
  'precise-prefix-cache-scorer': createPrecisePrefixCacheScorer,
  'approx-prefix-cache-producer': createApproxPrefixCacheProducer,
  'disagg-headers-handler': createDisaggHeadersHandler,
  'prefill-header-handler': createDisaggHeadersHandler,
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
