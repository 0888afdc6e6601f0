import { conditionTypes, reasons } from '../../api/conditions.ts';
import type { Verdict } from '../check.ts';
import type { CheckInput } from '../observed.ts';

const wantsGateway = ({ effective: { router } }: CheckInput) =>
  router !== undefined && (router.gateway !== undefined || router.route !== undefined);

const namesGateway = ({ effective: { router } }: CheckInput) =>
  (router?.gateway?.refs ?? []).length > 0 ||
  (router?.route?.http?.refs ?? []).length > 0 ||
  (router?.route?.http?.spec?.parentRefs ?? []).length > 0;

/** The kinds of the Gateway API are served. */
export function checkGatewayApi(input: CheckInput): Verdict | undefined {
  if (!wantsGateway(input) || input.surroundings.served.gatewayApi) return undefined;
  return {
    condition: conditionTypes.gatewaysReady,
    reason: reasons.gatewayPreconditionNotMet,
    message:
      'the API server does not serve gateway.networking.k8s.io/v1; install the Gateway API CRDs and a gateway controller, or remove spec.router',
  };
}

/** The default Gateway exists, or it is clear of which class to make it. */
export function checkGatewayClass(input: CheckInput): Verdict | undefined {
  const { served, gateway, acceptedClasses, configuredClass } = input.surroundings;
  if (!wantsGateway(input) || namesGateway(input) || !served.gatewayApi) return undefined;
  if (gateway.live || gateway.className !== undefined) return undefined;
  const name = `Gateway ${gateway.namespace}/${gateway.name}`;
  const why =
    configuredClass !== ''
      ? `its GatewayClass ${configuredClass} does not exist`
      : acceptedClasses.length === 0
        ? 'no GatewayClass is accepted by a controller'
        : `there are several GatewayClasses to make it of (${acceptedClasses.join(', ')})`;
  const remedy =
    configuredClass === '' && acceptedClasses.length > 0
      ? "name one by the operator's --gateway-class"
      : 'install a gateway controller with its GatewayClass';
  return {
    condition: conditionTypes.gatewaysReady,
    reason: reasons.gatewayPreconditionNotMet,
    message: `${name} does not exist and ${why}; ${remedy}, make that Gateway yourself, or name another in spec.router.gateway.refs`,
  };
}

/** One of the two InferencePool APIs is served. */
export function checkInferencePoolApi(input: CheckInput): Verdict | undefined {
  const { served } = input.surroundings;
  if (!input.effective.router?.scheduler || served.pool || served.xPool) return undefined;
  return {
    condition: conditionTypes.inferencePoolReady,
    reason: reasons.inferencePoolNotServed,
    message:
      'the API server serves no InferencePool; install the CRDs of the Gateway API inference extension, or remove spec.router.scheduler. Until then requests are spread without an endpoint picker',
  };
}
