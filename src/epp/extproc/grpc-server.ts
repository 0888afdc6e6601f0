import { AppError, messageOf } from '../../errors.ts';
import { acceptCall, type Services } from './grpc.ts';
import { createNativeEngine } from './http2/native-engine.ts';
import { createNodeEngine } from './node-engine.ts';
import type { CreateEngine, TlsPair } from './transport.ts';

/** Who speaks HTTP/2: Node, or our own code over its sockets. */
export type EngineName = 'node' | 'native';

const engines: Readonly<Record<EngineName, CreateEngine>> = { node: createNodeEngine, native: createNativeEngine };

export interface GrpcServerOptions {
  readonly address: string | undefined;
  readonly port: number;
  readonly services: Services;
  readonly maxMessageBytes: number;
  readonly engine: EngineName;
  readonly tls?: TlsPair;
  readonly onError?: (error: unknown) => void;
}

export interface GrpcServer {
  readonly port: number;
  /** Open calls. */
  readonly calls: number;
  /** New certificates for connections from now on. */
  setTls(pair: TlsPair): void;
  /**
   * Serves on until there was no call for 300 ms, then takes no new ones; what is left after `drainMs` is cut.
   */
  close(drainMs?: number): Promise<void>;
}

/** Without a call for so long, the gateways have gone elsewhere. */
const quietMs = 300;

/** Serves gRPC over HTTP/2, in clear text or TLS. Rejects with AppError `unavailable` when the port cannot be had. */
export async function startGrpcServer(options: GrpcServerOptions): Promise<GrpcServer> {
  let calls = 0;
  let total = 0;
  let seenTotal = 0;
  let onIdle: (() => void) | undefined;
  const onError = options.onError ?? (() => {});
  const callOptions = {
    services: options.services,
    maxMessageBytes: options.maxMessageBytes,
    onError,
    onClose: () => {
      calls--;
      if (calls === 0) onIdle?.();
    },
  };
  const engine = engines[options.engine]({
    tls: options.tls,
    onError,
    onStream: (path, stream) => {
      calls++;
      total++;
      return acceptCall(path, stream, callOptions);
    },
  });
  let port: number;
  try {
    port = await engine.listen(options.address, options.port);
  } catch (thrown) {
    const where = `${options.address ?? '*'}:${options.port}`;
    throw new AppError('unavailable', `cannot listen on ${where}: ${messageOf(thrown)}`, { cause: thrown });
  }

  return {
    port,
    get calls() {
      return calls;
    },
    setTls: (pair) => engine.setTls(pair),
    close: async (drainMs = 0) => {
      const deadline = performance.now() + drainMs;
      // Gateways hear late that this picker is going: it serves on until they have gone quiet.
      let quietSince = performance.now();
      while (drainMs > 0 && performance.now() < deadline && performance.now() - quietSince < quietMs) {
        if (calls > 0 || total !== seenTotal) quietSince = performance.now();
        seenTotal = total;
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      const closed = engine.goAway();
      const left = deadline - performance.now();
      if (calls > 0 && left > 0) {
        let timer: NodeJS.Timeout | undefined;
        await new Promise<void>((resolve) => {
          onIdle = resolve;
          timer = setTimeout(resolve, left);
        });
        clearTimeout(timer);
      }
      engine.destroy();
      await closed;
    },
  };
}
