import { AppError } from '../errors.ts';

/** `apiextensions.k8s.io/v1` ConversionReview: the API server asks for objects of a custom resource in another version. */
export interface ConversionRequest {
  readonly uid: string;
  /** Group and version that every object shall have. */
  readonly desiredAPIVersion: string;
  readonly objects: readonly unknown[];
}

/** Reads a ConversionReview request. Errors: `invalid`, naming what is missing. */
export function parseConversionReview(body: string): ConversionRequest {
  let review: { readonly apiVersion?: unknown; readonly kind?: unknown; readonly request?: unknown };
  try {
    review = JSON.parse(body) as typeof review;
  } catch {
    throw new AppError('invalid', 'the body is not JSON; send a ConversionReview of apiextensions.k8s.io/v1');
  }
  if (review?.kind !== 'ConversionReview' || review.apiVersion !== 'apiextensions.k8s.io/v1') {
    throw new AppError('invalid', 'the body is no ConversionReview; send one of apiextensions.k8s.io/v1');
  }
  const request = review.request as Partial<ConversionRequest> | null | undefined;
  const isWhole =
    typeof request?.uid === 'string' &&
    request.uid !== '' &&
    typeof request.desiredAPIVersion === 'string' &&
    Array.isArray(request.objects);
  if (!isWhole) {
    throw new AppError(
      'invalid',
      'request.uid, desiredAPIVersion or objects is missing; send the review as the API server makes it',
    );
  }
  return request as ConversionRequest;
}

/** The answer with all objects in the order of the request, or with the reason why there are none. */
export function toConversionReview(
  request: ConversionRequest,
  outcome: { readonly objects: readonly unknown[] } | { readonly failure: string },
): unknown {
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'ConversionReview',
    response: {
      uid: request.uid,
      ...('objects' in outcome
        ? { convertedObjects: outcome.objects, result: { status: 'Success' } }
        : { result: { status: 'Failure', message: outcome.failure } }),
    },
  };
}
