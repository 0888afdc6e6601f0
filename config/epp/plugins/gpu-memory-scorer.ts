// A scorer of your own: the more GPU memory a pod has free, the higher it scores.
// Named by config/epp/gpu-memory.yaml, which also says where a pod's metrics page tells the two figures.

interface Pod {
  readonly metrics: { readonly isKnown: boolean; readonly custom: Readonly<Record<string, number>> };
}

interface Settings {
  /** Bytes that must be free; a pod with less scores 0. */
  readonly minFreeBytes?: number;
}

/** The picker calls this once, with `parameters` of the configuration. */
export default function createGpuMemoryScorer(settings: Settings = {}) {
  return {
    /** 0 to 1 for one pod. The weight is the profile's business. */
    score(_request: unknown, pod: Pod): number {
      const { gpuMemoryUsedBytes: used, gpuMemoryTotalBytes: total } = pod.metrics.custom;
      // A pod that tells nothing, or nothing recent, must not look free.
      if (!pod.metrics.isKnown || used === undefined || !total) return 0;
      const free = total - used;
      return free < (settings.minFreeBytes ?? 0) ? 0 : free / total;
    },
  };
}
