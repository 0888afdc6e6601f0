import type { SidecarConfig } from './config.ts';

/**
 * The configuration of each data-parallel rank's sidecar: rank i serves on `port + i` for the engine on `decoder.port + i`, with metrics
 * on `metricsPort + i`. Each rank has a prefix cache of its own, so each has its own sessions. A port of 0 stays 0.
 */
export function ranksOf(config: SidecarConfig): readonly SidecarConfig[] {
  const { dataParallelSize: size } = config;
  if (size === 1) return [config];
  const shifted = (port: number, rank: number) => (port === 0 ? 0 : port + rank);
  return Array.from({ length: size }, (_, rank) => ({
    ...config,
    dataParallelSize: 1,
    port: shifted(config.port, rank),
    metricsPort: shifted(config.metricsPort, rank),
    decoder: { ...config.decoder, port: config.decoder.port + rank },
    decodeName: `${config.decodeName}/${rank}`,
  }));
}

/** What is wrong with the ports of so many ranks: each of the three ranges must be whole and apart from the others. */
export function checkRanks(
  size: number,
  bases: Readonly<Record<'port' | 'decoder-port' | 'metrics-port', number>>,
): readonly string[] {
  const problems: string[] = [];
  const ranges = Object.entries(bases).filter(([, base]) => base !== 0);
  for (const [flag, base] of ranges) {
    if (base + size - 1 > 65_535) {
      problems.push(`--${flag}: ${base} with --data-parallel-size=${size} goes beyond port 65535; take a lower one`);
    }
  }
  for (const [index, [flag, base]] of ranges.entries()) {
    for (const [other, otherBase] of ranges.slice(index + 1)) {
      if (Math.abs(base - otherBase) < size) {
        problems.push(
          `--${flag} ${base} and --${other} ${otherBase} overlap with --data-parallel-size=${size}: ${size} ports from each on are used; set them further apart`,
        );
      }
    }
  }
  return problems;
}
