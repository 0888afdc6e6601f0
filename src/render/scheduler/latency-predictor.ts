import type { Container, PodTemplate } from '../../api/foreign/pod.ts';
import type { Context } from '../input.ts';
import { pickerBinaryOf } from './binary.ts';
import { configTextOf } from './config-text.ts';

/**
 * The latency predictor beside the picker: one server learns from requests that are over, one predicts. Upstream's picker
 * needs both; ours learns by itself and asks them where its configuration or the template says so.
 */

const ports = { training: 8000, prediction: 8001 } as const;
export const predictorUrls = {
  training: `http://localhost:${ports.training}`,
  prediction: `http://localhost:${ports.prediction}`,
} as const;

const names = { training: 'training-server', prediction: 'prediction-server' } as const;
const producer = 'predicted-latency-producer';
const release = 'v0.9.0';

interface Plugin {
  readonly type?: unknown;
  readonly parameters?: Readonly<Record<string, unknown>>;
}

/** The plugin that predicts, as it is configured. */
function producerOf(context: Context): Plugin | undefined {
  const plugins = configTextOf(context)?.plugins;
  return Array.isArray(plugins) ? plugins.find((plugin: Plugin | null) => plugin?.type === producer) : undefined;
}

export function isPredictor(plugin: Plugin): boolean {
  return plugin.type === producer;
}

/** Whether the picker's pod has the two servers. */
export function hasPredictor(context: Context): boolean {
  const plugin = producerOf(context);
  if (!plugin) return false;
  if (pickerBinaryOf(context).isUpstream || bringsPredictor(context)) return true;
  const { predictionUrls, trainingUrl } = plugin.parameters ?? {};
  const urls = [trainingUrl, ...(Array.isArray(predictionUrls) ? predictionUrls : [])];
  return urls.some((url) => typeof url === 'string' && Object.values(predictorUrls).some((own) => url.startsWith(own)));
}

/** Whether the template has them, as KServe's preset does. */
function bringsPredictor({ effective }: Context): boolean {
  const containers = effective.router?.scheduler?.template?.containers ?? [];
  return containers.some(({ name }) => name === names.training || name === names.prediction);
}

/** Environment by which upstream's picker finds them. */
export function predictorEnvironment(context: Context): NonNullable<Container['env']> {
  if (!hasPredictor(context) || !pickerBinaryOf(context).isUpstream) return [];
  return variables({
    PREDICTION_SERVER_URL: predictorUrls.prediction,
    TRAINING_SERVER_URL: predictorUrls.training,
    LATENCY_MAX_SAMPLE_SIZE: '10000',
    LATENCY_MAX_CONCURRENT_DISPATCHES: '36',
    LATENCY_COALESCE_WINDOW_MS: '1',
  });
}

/** Their containers and volumes, under what the template says of containers of the same names. */
export function predictorPod(context: Context): Required<Pick<PodTemplate, 'containers' | 'volumes'>> {
  if (!hasPredictor(context)) return { containers: [], volumes: [] };
  const volume = (name: string, sizeLimit?: string) => ({
    name,
    emptyDir: sizeLimit === undefined ? {} : { sizeLimit },
  });
  return {
    containers: [trainingServer, predictionServer],
    volumes: [
      volume(`${names.training}-storage`, '20Gi'),
      volume(`${names.prediction}-storage`, '10Gi'),
      volume(`${names.training}-tmp`),
      volume(`${names.prediction}-tmp`),
    ],
  };
}

function variables(values: Readonly<Record<string, string>>): NonNullable<Container['env']> {
  return Object.entries(values).map(([name, value]) => ({ name, value }));
}

/** Where models of both latencies lie, under the variables of one of the servers. */
function modelPaths(prefix: string, folder: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    ['TTFT', 'TPOT'].flatMap((kind) =>
      ['', 'SCALER', 'GATED'].map((part) => {
        const variable = [
          prefix,
          kind,
          part === '' || part === 'GATED' ? (part === '' ? 'MODEL' : 'GATED_MODEL') : part,
          'PATH',
        ];
        return [variable.join('_'), `${folder}/${[kind, part].filter(Boolean).join('_').toLowerCase()}.joblib`];
      }),
    ),
  );
}

const securityContext: NonNullable<Container['securityContext']> = {
  allowPrivilegeEscalation: false,
  capabilities: { drop: ['ALL'] },
  readOnlyRootFilesystem: true,
  runAsNonRoot: true,
  seccompProfile: { type: 'RuntimeDefault' },
};

function server(
  name: (typeof names)[keyof typeof names],
  port: number,
  portName: string,
  folder: string,
  startedPath: string,
  own: Pick<Container, 'resources' | 'env'>,
): Container {
  const probe = (path: string) => ({ httpGet: { path, port }, timeoutSeconds: 5 });
  return {
    name,
    image: `llm-d/llm-d-latency-predictor-${name}:${release}`,
    ports: [{ containerPort: port, name: portName, protocol: 'TCP' }],
    ...own,
    startupProbe: { ...probe(startedPath), periodSeconds: 5, failureThreshold: 120 },
    readinessProbe: { ...probe('/readyz'), periodSeconds: 10, failureThreshold: 3 },
    livenessProbe: { ...probe('/healthz'), periodSeconds: 15, failureThreshold: 5 },
    securityContext,
    volumeMounts: [
      { mountPath: folder, name: `${name}-storage` },
      { mountPath: '/tmp', name: `${name}-tmp` },
    ],
  };
}

const trainingServer = server(names.training, ports.training, 'training-port', '/models', '/healthz', {
  resources: { requests: { cpu: '2', memory: '4Gi' }, limits: { cpu: '4', memory: '8Gi' } },
  env: variables({
    LATENCY_RETRAINING_INTERVAL_SEC: '10',
    LATENCY_MIN_SAMPLES_FOR_RETRAIN: '100',
    ...modelPaths('LATENCY', '/models'),
    LATENCY_MODEL_TYPE: 'xgboost',
    LATENCY_MAX_TRAINING_DATA_SIZE_PER_BUCKET: '500',
    LATENCY_OBJECTIVE_TYPE: 'mean',
  }),
});

const predictionServer = server(names.prediction, ports.prediction, 'predict-port', '/server_models', '/readyz', {
  resources: { requests: { cpu: '8', memory: '4Gi' }, limits: { cpu: '28', memory: '8Gi' } },
  env: variables({
    TRAINING_SERVER_URL: predictorUrls.training,
    LATENCY_MODEL_TYPE: 'xgboost',
    PREDICT_HOST: '0.0.0.0',
    PREDICT_PORT: String(ports.prediction),
    ...modelPaths('LOCAL', '/server_models'),
    UVICORN_WORKERS: '28',
    OMP_NUM_THREADS: '1',
    MODEL_SYNC_INTERVAL_SEC: '30',
    LATENCY_OBJECTIVE_TYPE: 'mean',
  }),
});
