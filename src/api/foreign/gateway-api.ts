import { z } from 'zod';
import type { Condition } from '../conditions.ts';
import { type Immutable, int32 } from '../fields.ts';

/**
 * What this project reads and writes of the Gateway API (gateway.networking.k8s.io/v1). Loose objects are
 * places where that API grows: what is not listed here passes through untouched.
 */

const name = () => z.string().min(1).max(253);
const namespace = () => z.string().min(1).max(63);
const duration = () => z.string().regex(/^([0-9]{1,5}(h|m|s|ms)){1,4}$/);

export const parentReference = z.looseObject({
  group: z.string().max(253).optional(),
  kind: z.string().max(63).optional(),
  namespace: namespace().optional(),
  name: name(),
  sectionName: z.string().min(1).max(253).optional(),
  port: int32(1, 65_535).optional(),
});

const httpHeader = z.object({ name: z.string().min(1).max(256), value: z.string().min(1).max(4096) });

const headerFilter = z.looseObject({
  set: z.array(httpHeader).max(16).optional(),
  add: z.array(httpHeader).max(16).optional(),
  remove: z.array(z.string()).max(16).optional(),
});

const pathModifier = z.looseObject({
  type: z.string().describe('ReplaceFullPath or ReplacePrefixMatch.'),
  replaceFullPath: z.string().max(1024).optional(),
  replacePrefixMatch: z.string().max(1024).optional(),
});

export const httpRouteFilter = z.looseObject({
  type: z.string().min(1).max(64).describe('Which of the fields below is set: URLRewrite, RequestRedirect, …'),
  requestHeaderModifier: headerFilter.optional(),
  responseHeaderModifier: headerFilter.optional(),
  urlRewrite: z.looseObject({ hostname: z.string().max(253).optional(), path: pathModifier.optional() }).optional(),
  requestRedirect: z
    .looseObject({
      scheme: z.string().optional(),
      hostname: z.string().max(253).optional(),
      path: pathModifier.optional(),
      port: int32(1, 65_535).optional(),
      statusCode: z.int().optional(),
    })
    .optional(),
  requestMirror: z.looseObject({}).optional(),
  extensionRef: z.object({ group: z.string().max(253), kind: z.string().max(63), name: name() }).optional(),
});

export const httpBackendRef = z.looseObject({
  group: z.string().max(253).optional(),
  kind: z.string().max(63).optional(),
  name: name(),
  namespace: namespace().optional(),
  port: int32(1, 65_535).optional(),
  weight: int32(0, 1_000_000).optional(),
  filters: z.array(httpRouteFilter).max(16).optional(),
});

export const httpRouteMatch = z.looseObject({
  path: z
    .looseObject({
      type: z.string().optional().describe('Exact, PathPrefix or RegularExpression.'),
      value: z.string().max(1024).optional(),
    })
    .optional(),
  headers: z
    .array(
      z.looseObject({
        type: z.string().optional().describe('Exact or RegularExpression.'),
        name: z.string().min(1).max(256),
        value: z.string().min(1).max(4096),
      }),
    )
    .max(16)
    .optional(),
  queryParams: z
    .array(
      z.looseObject({
        type: z.string().optional(),
        name: z.string().min(1).max(256),
        value: z.string().min(1).max(1024),
      }),
    )
    .max(16)
    .optional(),
  method: z.string().optional(),
});

export const httpRouteRule = z.looseObject({
  name: z.string().min(1).max(253).optional(),
  matches: z.array(httpRouteMatch).max(64).optional(),
  filters: z.array(httpRouteFilter).max(16).optional(),
  backendRefs: z.array(httpBackendRef).max(16).optional(),
  timeouts: z.looseObject({ request: duration().optional(), backendRequest: duration().optional() }).optional(),
});

export const httpRouteSpec = z.looseObject({
  parentRefs: z.array(parentReference).max(32).optional(),
  hostnames: z.array(z.string().min(1).max(253)).max(16).optional(),
  rules: z.array(httpRouteRule).max(16).optional(),
});

export type ParentReference = Immutable<z.input<typeof parentReference>>;
export type HTTPRouteFilter = Immutable<z.input<typeof httpRouteFilter>>;
export type HTTPBackendRef = Immutable<z.input<typeof httpBackendRef>>;
export type HTTPRouteMatch = Immutable<z.input<typeof httpRouteMatch>>;
export type HTTPRouteRule = Immutable<z.input<typeof httpRouteRule>>;
export type HTTPRouteSpec = Immutable<z.input<typeof httpRouteSpec>>;

interface Metadata {
  readonly name: string;
  readonly namespace?: string;
  readonly uid?: string;
  readonly resourceVersion?: string;
  readonly generation?: number;
  readonly creationTimestamp?: string;
  readonly deletionTimestamp?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** What one gateway controller says of one parent of a route. */
export interface RouteParentStatus {
  readonly parentRef: ParentReference;
  readonly controllerName: string;
  readonly conditions?: readonly Condition[];
}

export interface HTTPRoute {
  readonly apiVersion: 'gateway.networking.k8s.io/v1';
  readonly kind: 'HTTPRoute';
  readonly metadata: Metadata;
  readonly spec: HTTPRouteSpec;
  readonly status?: { readonly parents: readonly RouteParentStatus[] };
}

export interface GatewayClass {
  readonly apiVersion: 'gateway.networking.k8s.io/v1';
  readonly kind: 'GatewayClass';
  readonly metadata: Metadata;
  readonly spec: {
    readonly controllerName: string;
    readonly description?: string;
    readonly parametersRef?: {
      readonly group: string;
      readonly kind: string;
      readonly name: string;
      readonly namespace?: string;
    };
  };
  readonly status?: {
    readonly conditions?: readonly Condition[];
    readonly supportedFeatures?: readonly { readonly name: string }[];
  };
}

export interface GatewayListener {
  readonly name: string;
  readonly hostname?: string;
  readonly port: number;
  /** HTTP, HTTPS, TLS, TCP or UDP. */
  readonly protocol: string;
  readonly tls?: {
    readonly mode?: string;
    readonly certificateRefs?: readonly {
      readonly group?: string;
      readonly kind?: string;
      readonly name: string;
      readonly namespace?: string;
    }[];
  };
  readonly allowedRoutes?: {
    readonly namespaces?: {
      readonly from?: 'All' | 'Selector' | 'Same' | 'None';
      readonly selector?: {
        readonly matchLabels?: Readonly<Record<string, string>>;
        readonly matchExpressions?: readonly {
          readonly key: string;
          readonly operator: string;
          readonly values?: readonly string[];
        }[];
      };
    };
    readonly kinds?: readonly { readonly group?: string; readonly kind: string }[];
  };
}

export interface GatewayListenerStatus {
  readonly name: string;
  readonly attachedRoutes: number;
  readonly supportedKinds?: readonly { readonly group?: string; readonly kind: string }[];
  readonly conditions: readonly Condition[];
}

export interface Gateway {
  readonly apiVersion: 'gateway.networking.k8s.io/v1';
  readonly kind: 'Gateway';
  readonly metadata: Metadata;
  readonly spec: {
    readonly gatewayClassName: string;
    readonly listeners: readonly GatewayListener[];
    readonly addresses?: readonly { readonly type?: string; readonly value?: string }[];
    readonly infrastructure?: {
      readonly labels?: Readonly<Record<string, string>>;
      readonly annotations?: Readonly<Record<string, string>>;
    };
  };
  readonly status?: {
    readonly addresses?: readonly { readonly type?: string; readonly value: string }[];
    readonly conditions?: readonly Condition[];
    readonly listeners?: readonly GatewayListenerStatus[];
  };
}
