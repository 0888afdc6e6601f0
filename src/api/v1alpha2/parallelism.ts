import type { ParallelismSpec, WorkloadSpec } from './llm-inference-service.ts';

/** One pod that holds a whole replica, or one of the pods that share it. */
export type NodePart = 'single' | 'leader' | 'worker';

/** Pods that make up one replica, or undefined when the parallelism says nothing of it. */
export function groupSizeOf(parallelism: ParallelismSpec | undefined): number | undefined {
  const { data, dataLocal, pipeline } = parallelism ?? {};
  if (data !== undefined && dataLocal !== undefined) return Math.max(Math.floor(data / dataLocal), 1);
  return pipeline;
}

/** Whether a replica is a group of pods: that is what `worker` asks for. */
export function isMultiNode(workload: WorkloadSpec): boolean {
  return workload.worker !== undefined;
}

/** GPUs that one pod of a workload needs. */
export function gpusPerPod(workload: WorkloadSpec): number {
  const { tensor = 1, pipeline = 1, data = 1, dataLocal } = workload.parallelism ?? {};
  return isMultiNode(workload) ? tensor * (dataLocal ?? 1) : tensor * pipeline * data;
}
