import { describe, expect, it } from '@jest/globals';
import { rankFiles, renderParallelArgs } from './parallel-args.ts';

const args = (...parameters: Parameters<typeof renderParallelArgs>) => renderParallelArgs(...parameters).join(' ');

describe('arguments of parallelism', () => {
  it.each<[Parameters<typeof renderParallelArgs>, string]>([
    [[undefined, 'single', []], ''],
    [[{ tensor: 2, pipeline: 2 }, 'single', []], '--tensor-parallel-size 2 --pipeline-parallel-size 2'],
    [[{ data: 4, dataLocal: 4, expert: true }, 'single', []], '--data-parallel-size 4 --enable-expert-parallel'],
    [
      [{ data: 8, dataLocal: 4, dataRPCPort: 6000 }, 'leader', []],
      '--data-parallel-size 8 --data-parallel-size-local 4 --data-parallel-address $(VLLM_HOST_IP) --data-parallel-rpc-port 6000',
    ],
    [
      [{ data: 2, dataLocal: 1 }, 'worker', []],
      '--data-parallel-size 2 --data-parallel-size-local 1 --data-parallel-address $(LWS_LEADER_ADDRESS) --data-parallel-rpc-port 5555 --data-parallel-start-rank $(LWS_WORKER_INDEX) --headless',
    ],
    [
      [{ pipeline: 3, tensor: 8 }, 'leader', []],
      '--tensor-parallel-size 8 --pipeline-parallel-size 3 --nnodes 3 --node-rank 0 --master-addr $(VLLM_HOST_IP) --distributed-executor-backend mp',
    ],
    [
      [{ pipeline: 3 }, 'worker', ['--distributed-executor-backend', 'ray', '--headless', '-n', '3']],
      '--pipeline-parallel-size 3 --node-rank $(LWS_WORKER_INDEX) --master-addr $(LWS_LEADER_ADDRESS)',
    ],
    [[{ pipeline: 1 }, 'leader', []], '--pipeline-parallel-size 1'],
    [[{ tensor: 2, data: 2, dataLocal: 2 }, 'single', ['-tp', '4', '--data-parallel-size=1']], ''],
  ])('%j', (parameters, expected) => expect(args(...parameters)).toBe(expected));

  it('gives each worker the file with its first rank', () => {
    const parallelism = { data: 12, dataLocal: 4 };
    expect(args(parallelism, 'worker', [])).toContain('--config /etc/signalbox/ranks/node-$(LWS_WORKER_INDEX).yaml');
    expect(rankFiles(parallelism)).toEqual([
      { index: 1, path: 'node-1.yaml', content: 'data-parallel-start-rank: 4\n' },
      { index: 2, path: 'node-2.yaml', content: 'data-parallel-start-rank: 8\n' },
    ]);
    expect(args(parallelism, 'worker', ['--data-parallel-start-rank=4'])).not.toContain('--config');
    expect(rankFiles({ data: 4, dataLocal: 1 })).toEqual([]);
    expect(rankFiles({ pipeline: 4 })).toEqual([]);
  });
});
