import { generateKeyPairSync } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { Agent, request } from 'undici';
import { stringify } from 'yaml';
import { AppError, messageOf } from '../errors.ts';
import { createAuthority, issueCertificate, type KeyPair } from '../pki.ts';
import { type Launched, lastLines, launch } from './launch.ts';

export interface ControlPlaneOptions {
  /** Everything is written below this folder: data, certificates, logs. */
  readonly stateDir: string;
  readonly binaries: {
    readonly etcd: string;
    readonly kubeApiserver: string;
    /** Left out: no controllers run. */
    readonly kubeControllerManager?: string;
    /** Left out: nothing is scheduled. */
    readonly kubeScheduler?: string;
  };
  /** A /16 of the loopback network: `127.96`. ClusterIPs come from it. */
  readonly serviceNetwork?: string;
  /** The loopback address to listen on; one of its own keeps clusters that start at once from taking each other's ports. */
  readonly host?: string;
  readonly onProgress?: (line: string) => void;
  readonly signal?: AbortSignal;
}

/** A running etcd, kube-apiserver and, where given, controller-manager and scheduler. */
export interface ControlPlane {
  readonly server: string;
  /** An administrator's, with certificates inside. */
  readonly kubeconfigPath: string;
  readonly caFile: string;
  /** For a node that the API server asks for logs. */
  readonly kubelet: { readonly certificateFile: string; readonly keyFile: string; readonly clientCaFile: string };
  readonly host: string;
  readonly port: number;
  readonly logFiles: Readonly<Record<string, string>>;
  /** Resolves when a component has crashed: which one, with its last log lines. */
  readonly failed: Promise<AppError>;
  stop(): Promise<void>;
}

const day = 86_400_000;
/** Nothing of the data is needed any more, and kube-apiserver takes its time when etcd is gone. */
const stopGraceMs = 1_500;

/**
 * Starts a real control plane on free loopback ports.
 *
 * Guarantees: resolves when `/readyz` is ok; on any failure what was started is stopped again.
 */
export async function startControlPlane(options: ControlPlaneOptions): Promise<ControlPlane> {
  const progress = options.onProgress ?? (() => {});
  const serviceNetwork = options.serviceNetwork ?? '127.96';
  const host = options.host ?? '127.0.0.1';
  const pkiDir = join(options.stateDir, 'pki');
  const logDir = join(options.stateDir, 'logs');
  await mkdir(pkiDir, { recursive: true, mode: 0o700 });
  await mkdir(logDir, { recursive: true });

  const [port, etcdPort, peerPort, managerPort, schedulerPort] = await freePorts(host, 5);
  const server = `https://${host}:${port}`;
  const pki = await writePki(pkiDir, host, `${serviceNetwork}.0.1`);
  const kubeconfig = async (name: string, client: KeyPair) => {
    const path = join(options.stateDir, `${name}.kubeconfig`);
    await writeFile(path, renderKubeconfig(server, pki.authority.certificate, client), { mode: 0o600 });
    return path;
  };
  const kubeconfigPath = await kubeconfig('admin', await pki.client('signalbox-admin', 'system:masters'));
  const logFiles: Record<string, string> = {};
  const running: Launched[] = [];
  const start = (name: string, command: string, args: readonly string[]) => {
    const logFile = join(logDir, `${name}.log`);
    logFiles[name] = logFile;
    const launched = launch({ name, command, args, logFile, cwd: options.stateDir });
    running.push(launched);
    return launched;
  };
  const stop = async () => {
    // In the reverse order, so that nothing complains about what it depends on.
    for (const launched of [...running].reverse()) await launched.stop(stopGraceMs);
  };

  try {
    progress('starting etcd and kube-apiserver');
    start('etcd', options.binaries.etcd, [
      '--name=signalbox',
      `--data-dir=${join(options.stateDir, 'etcd')}`,
      `--listen-client-urls=http://${host}:${etcdPort}`,
      `--advertise-client-urls=http://${host}:${etcdPort}`,
      `--listen-peer-urls=http://${host}:${peerPort}`,
      `--initial-advertise-peer-urls=http://${host}:${peerPort}`,
      `--initial-cluster=signalbox=http://${host}:${peerPort}`,
      '--unsafe-no-fsync',
      '--log-level=warn',
    ]);
    start('kube-apiserver', options.binaries.kubeApiserver, [
      `--etcd-servers=http://${host}:${etcdPort}`,
      `--bind-address=${host}`,
      `--secure-port=${port}`,
      `--tls-cert-file=${pki.file('apiserver.crt')}`,
      `--tls-private-key-file=${pki.file('apiserver.key')}`,
      `--client-ca-file=${pki.file('ca.crt')}`,
      `--kubelet-client-certificate=${pki.file('kubelet-client.crt')}`,
      `--kubelet-client-key=${pki.file('kubelet-client.key')}`,
      `--kubelet-certificate-authority=${pki.file('ca.crt')}`,
      '--kubelet-preferred-address-types=InternalIP',
      // Nobody holds this certificate; without one the other components complain of its absence for ever.
      `--requestheader-client-ca-file=${pki.file('ca.crt')}`,
      '--requestheader-allowed-names=front-proxy-client',
      '--requestheader-username-headers=X-Remote-User',
      '--requestheader-group-headers=X-Remote-Group',
      '--requestheader-extra-headers-prefix=X-Remote-Extra-',
      `--service-account-issuer=${server}/`,
      `--service-account-key-file=${pki.file('sa.pub')}`,
      `--service-account-signing-key-file=${pki.file('sa.key')}`,
      '--authorization-mode=RBAC',
      `--service-cluster-ip-range=${serviceNetwork}.0.0/16`,
      '--allow-privileged=true',
      '--enable-priority-and-fairness=false',
      '--max-requests-inflight=3000',
      '--max-mutating-requests-inflight=1000',
      '--profiling=false',
      '--endpoint-reconciler-type=none',
    ]);
    await awaitReady(server, pki, running, logFiles, options.signal);

    if (options.binaries.kubeControllerManager) {
      const path = await kubeconfig('controller-manager', await pki.client('system:kube-controller-manager'));
      start('kube-controller-manager', options.binaries.kubeControllerManager, [
        `--kubeconfig=${path}`,
        `--authentication-kubeconfig=${path}`,
        `--authorization-kubeconfig=${path}`,
        `--service-account-private-key-file=${pki.file('sa.key')}`,
        `--root-ca-file=${pki.file('ca.crt')}`,
        '--use-service-account-credentials=true',
        '--leader-elect=false',
        `--bind-address=${host}`,
        `--secure-port=${managerPort}`,
        // EndpointSlices refuse loopback addresses; the Service proxy reads pods instead.
        '--controllers=*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller',
        '--kube-api-qps=500',
        '--kube-api-burst=1000',
        '--concurrent-deployment-syncs=20',
        '--concurrent-replicaset-syncs=20',
        '--profiling=false',
      ]);
    }
    if (options.binaries.kubeScheduler) {
      const path = await kubeconfig('scheduler', await pki.client('system:kube-scheduler'));
      const config = join(options.stateDir, 'scheduler.yaml');
      await writeFile(
        config,
        stringify({
          apiVersion: 'kubescheduler.config.k8s.io/v1',
          kind: 'KubeSchedulerConfiguration',
          leaderElection: { leaderElect: false },
          clientConnection: { kubeconfig: path, qps: 500, burst: 1000 },
          enableProfiling: false,
        }),
      );
      start('kube-scheduler', options.binaries.kubeScheduler, [
        `--config=${config}`,
        `--authentication-kubeconfig=${path}`,
        `--authorization-kubeconfig=${path}`,
        `--bind-address=${host}`,
        `--secure-port=${schedulerPort}`,
      ]);
    }
  } catch (thrown) {
    await stop();
    throw thrown;
  }
  return {
    server,
    kubeconfigPath,
    caFile: pki.file('ca.crt'),
    kubelet: {
      certificateFile: pki.file('kubelet.crt'),
      keyFile: pki.file('kubelet.key'),
      clientCaFile: pki.file('ca.crt'),
    },
    host,
    port: port ?? 0,
    logFiles,
    failed: Promise.race(running.map((launched) => launched.failed)),
    stop,
  };
}

interface Pki {
  readonly authority: KeyPair;
  readonly admin: KeyPair;
  file(name: string): string;
  client(commonName: string, organization?: string): Promise<KeyPair>;
}

async function writePki(folder: string, host: string, serviceAddress: string): Promise<Pki> {
  const notBefore = new Date(Date.now() - 60_000);
  const notAfter = new Date(Date.now() + 365 * day);
  const authority = await createAuthority({ commonName: 'signalbox-local', notBefore, notAfter });
  const serving = await issueCertificate(authority, {
    commonName: 'kube-apiserver',
    dnsNames: [
      'localhost',
      'kubernetes',
      'kubernetes.default',
      'kubernetes.default.svc',
      'kubernetes.default.svc.cluster.local',
    ],
    ipAddresses: [host, serviceAddress],
    usage: 'server',
    notBefore,
    notAfter,
  });
  const client = (commonName: string, organization?: string) =>
    issueCertificate(authority, {
      commonName,
      ...(organization ? { organization } : {}),
      usage: 'client',
      notBefore,
      notAfter,
    });
  const kubelet = await issueCertificate(authority, {
    commonName: 'system:node',
    ipAddresses: ['127.0.0.1'],
    usage: 'server',
    notBefore,
    notAfter,
  });
  const kubeletClient = await client('kube-apiserver-kubelet-client');
  const serviceAccounts = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const file = (name: string) => join(folder, name);
  const files: Readonly<Record<string, string>> = {
    'ca.crt': authority.certificate,
    'apiserver.crt': serving.certificate,
    'apiserver.key': serving.key,
    'kubelet.crt': kubelet.certificate,
    'kubelet.key': kubelet.key,
    'kubelet-client.crt': kubeletClient.certificate,
    'kubelet-client.key': kubeletClient.key,
    'sa.key': serviceAccounts.privateKey.export({ type: 'sec1', format: 'pem' }).toString(),
    'sa.pub': serviceAccounts.publicKey.export({ type: 'spki', format: 'pem' }).toString(),
  };
  for (const [name, text] of Object.entries(files)) await writeFile(file(name), text, { mode: 0o600 });
  return { authority, admin: await client('signalbox-admin', 'system:masters'), file, client };
}

/** A kubeconfig with everything inside, usable by kubectl. */
export function renderKubeconfig(server: string, authority: string, client: KeyPair): string {
  const data = (pem: string) => Buffer.from(pem).toString('base64');
  return stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'signalbox',
    clusters: [{ name: 'signalbox', cluster: { server, 'certificate-authority-data': data(authority) } }],
    users: [
      {
        name: 'signalbox',
        user: { 'client-certificate-data': data(client.certificate), 'client-key-data': data(client.key) },
      },
    ],
    contexts: [{ name: 'signalbox', context: { cluster: 'signalbox', user: 'signalbox' } }],
  });
}

async function awaitReady(
  server: string,
  pki: Pki,
  running: readonly Launched[],
  logFiles: Readonly<Record<string, string>>,
  signal?: AbortSignal,
): Promise<void> {
  const dispatcher = new Agent({
    connect: { ca: pki.authority.certificate, cert: pki.admin.certificate, key: pki.admin.key },
  });
  const crash = new AbortController();
  void Promise.race(running.map((launched) => launched.failed)).then((error) => crash.abort(error));
  const either = signal ? AbortSignal.any([signal, crash.signal]) : crash.signal;
  // A request that is still connecting does not look at its signal.
  const aborted = new Promise<never>((_, reject) => {
    either.addEventListener('abort', () => reject(either.reason), { once: true });
  });
  aborted.catch(() => {});
  const deadline = Date.now() + 120_000;
  try {
    for (;;) {
      either.throwIfAborted();
      const asking = request(`${server}/readyz`, { dispatcher, headersTimeout: 5000, bodyTimeout: 5000 });
      const answer = await Promise.race([asking.catch(messageOf), aborted]);
      if (typeof answer !== 'string') {
        await answer.body.dump();
        if (answer.statusCode === 200) return;
      }
      if (Date.now() > deadline) {
        throw new AppError(
          'timeout',
          `kube-apiserver is not ready after 120 s. Its last lines:\n${await lastLines(logFiles['kube-apiserver'] ?? '')}`,
        );
      }
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  } finally {
    // Not waited for: a connection to a server that never answers ends with that server.
    void dispatcher.destroy().catch(() => {});
  }
}

/** Ports that nobody listens on now, all different. */
export async function freePorts(host: string, count: number): Promise<readonly number[]> {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise<ReturnType<typeof createServer>>((resolve, reject) => {
          const server = createServer();
          server.once('error', reject);
          server.listen(0, host, () => resolve(server));
        }),
    ),
  );
  const ports = servers.map((server) => {
    const address = server.address();
    return typeof address === 'object' && address !== null ? address.port : 0;
  });
  await Promise.all(servers.map((server) => new Promise((resolve) => server.close(resolve))));
  return ports;
}
