/** Names of children. They are API: users, dashboards and scripts know them. */

const maxLength = 63;
const hashLength = 32;
const headLength = maxLength - hashLength;

/**
 * The name of a child: parent and suffix, or, where that exceeds 63 characters, a shortened parent with an MD5 in
 * between. The rule is that of knative's `kmeta.ChildName`, so that names agree with KServe's.
 */
export function childName(parent: string, suffix: string): string {
  if (parent.length + suffix.length <= maxLength) return parent + suffix;
  if (suffix.length < headLength) return `${parent.slice(0, headLength - suffix.length)}${md5(parent)}${suffix}`;
  const hashed = `${parent.slice(0, headLength)}${md5(parent + suffix)}`;
  return (hashed + suffix.slice(0, maxLength - hashed.length)).replace(/[^a-zA-Z0-9]+$/, '');
}

/** The names of everything that a service may own. */
export interface ChildNames {
  readonly main: string;
  readonly prefill: string;
  readonly mainMultiNode: string;
  readonly prefillMultiNode: string;
  readonly mainHpa: string;
  readonly prefillHpa: string;
  readonly mainKeda: string;
  readonly prefillKeda: string;
  readonly workloadService: string;
  readonly prefillService: string;
  readonly sidecarServiceAccount: string;
  readonly sidecarRole: string;
  readonly sidecarRoleBinding: string;
  readonly multiNodeServiceAccount: string;
  readonly multiNodeRole: string;
  readonly multiNodeRoleBinding: string;
  readonly prefillMultiNodeServiceAccount: string;
  readonly scheduler: string;
  readonly schedulerService: string;
  readonly schedulerServiceAccount: string;
  readonly schedulerRole: string;
  readonly schedulerRoleBinding: string;
  readonly pool: string;
  readonly route: string;
  /** The Secret of the service's certificate, and the ConfigMap with its public half. */
  readonly certificates: string;
  readonly backendTls: string;
  readonly workloadPolicy: string;
  readonly schedulerPolicy: string;
  readonly workloadMonitor: string;
  readonly schedulerMonitor: string;
  readonly deviceClaims: string;
  /** Deployment and Service of the tokenizer. */
  readonly tokenizer: string;
}

export function childNames(service: string): ChildNames {
  return {
    main: childName(service, '-kserve'),
    prefill: childName(service, '-kserve-prefill'),
    mainMultiNode: childName(service, '-kserve-mn'),
    prefillMultiNode: childName(service, '-kserve-mn-prefill'),
    mainHpa: childName(service, '-kserve-hpa'),
    prefillHpa: childName(service, '-kserve-prefill-hpa'),
    mainKeda: childName(service, '-kserve-keda'),
    prefillKeda: childName(service, '-kserve-prefill-keda'),
    workloadService: childName(service, '-kserve-workload-svc'),
    prefillService: childName(service, '-kserve-prefill-svc'),
    sidecarServiceAccount: childName(service, '-kserve'),
    sidecarRole: childName(service, '-kserve-role'),
    sidecarRoleBinding: childName(service, '-kserve-rb'),
    multiNodeServiceAccount: childName(service, '-kserve-mn'),
    multiNodeRole: childName(service, '-kserve-mn-role'),
    multiNodeRoleBinding: childName(service, '-kserve-mn-rb'),
    prefillMultiNodeServiceAccount: childName(service, '-kserve-mn-prefill'),
    scheduler: childName(service, '-kserve-router-scheduler'),
    schedulerService: childName(service, '-epp-service'),
    schedulerServiceAccount: childName(service, '-epp-sa'),
    schedulerRole: childName(service, '-epp-role'),
    schedulerRoleBinding: childName(service, '-epp-rb'),
    pool: childName(service, '-inference-pool'),
    route: childName(service, '-kserve-route'),
    certificates: childName(service, '-kserve-self-signed-certs'),
    backendTls: childName(service, '-kserve-backend-tls'),
    workloadPolicy: childName(service, '-kserve'),
    schedulerPolicy: childName(service, '-kserve-router-scheduler'),
    workloadMonitor: childName(service, '-kserve'),
    schedulerMonitor: childName(service, '-kserve-router-scheduler'),
    deviceClaims: childName(service, '-managed-dra'),
    tokenizer: childName(service, '-tokenizer'),
  };
}

/** The route that asks gateways whether they know the newest API of pools. */
export function probeRouteName(service: string): string {
  return childName(service, '-kserve-route-pool-probe');
}

const shifts = [7, 12, 17, 22, 5, 9, 14, 20, 4, 11, 16, 23, 6, 10, 15, 21] as const;
const sines = Array.from({ length: 64 }, (_, i) => Math.floor(Math.abs(Math.sin(i + 1)) * 2 ** 32));

/** MD5 of a text's UTF-8 bytes as hex (RFC 1321). For names only: this folder may not import node:crypto. */
export function md5(text: string): string {
  const bytes = new TextEncoder().encode(text);
  const padded = new Uint8Array((((bytes.length + 8) >> 6) + 1) << 6);
  padded.set(bytes);
  padded[bytes.length] = 0x80;
  const view = new DataView(padded.buffer);
  view.setUint32(padded.length - 8, bytes.length << 3, true);
  let [a0, b0, c0, d0] = [0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476];
  for (let block = 0; block < padded.length; block += 64) {
    let [a, b, c, d] = [a0, b0, c0, d0];
    for (let i = 0; i < 64; i++) {
      const round = i >> 4;
      const mixed =
        round === 0 ? (b & c) | (~b & d) : round === 1 ? (d & b) | (~d & c) : round === 2 ? b ^ c ^ d : c ^ (b | ~d);
      const word = round === 0 ? i : round === 1 ? (5 * i + 1) % 16 : round === 2 ? (3 * i + 5) % 16 : (7 * i) % 16;
      const sum = (a + mixed + (sines[i] ?? 0) + view.getUint32(block + word * 4, true)) | 0;
      const shift = shifts[round * 4 + (i % 4)] ?? 0;
      [a, d, c, b] = [d, c, b, (b + ((sum << shift) | (sum >>> (32 - shift)))) | 0];
    }
    [a0, b0, c0, d0] = [(a0 + a) | 0, (b0 + b) | 0, (c0 + c) | 0, (d0 + d) | 0];
  }
  const out = new DataView(new ArrayBuffer(16));
  for (const [i, word] of [a0, b0, c0, d0].entries()) out.setUint32(i * 4, word, true);
  return Array.from({ length: 16 }, (_, i) => out.getUint8(i).toString(16).padStart(2, '0')).join('');
}
