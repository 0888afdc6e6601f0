import { describe, expect, it } from '@jest/globals';
import { parseConversionReview, toConversionReview } from './conversion.ts';

const review = (request: unknown, more: object = {}) =>
  JSON.stringify({ apiVersion: 'apiextensions.k8s.io/v1', kind: 'ConversionReview', request, ...more });
const request = { uid: 'u', desiredAPIVersion: 'a/v1', objects: [{ a: 1 }] };

describe('a ConversionReview', () => {
  it('is read, and answered with all objects or a reason', () => {
    expect(parseConversionReview(review(request))).toEqual(request);
    expect(toConversionReview(request, { objects: [{ a: 2 }] })).toEqual({
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'ConversionReview',
      response: { uid: 'u', convertedObjects: [{ a: 2 }], result: { status: 'Success' } },
    });
    expect(toConversionReview(request, { failure: 'why' })).toMatchObject({
      response: { uid: 'u', result: { status: 'Failure', message: 'why' } },
    });
  });

  it.each<[string, string, string]>([
    ['no JSON', '{', 'not JSON'],
    ['null', 'null', 'no ConversionReview'],
    ['another kind', review(request, { kind: 'AdmissionReview' }), 'no ConversionReview'],
    ['an older version', review(request, { apiVersion: 'apiextensions.k8s.io/v1beta1' }), 'no ConversionReview'],
    ['no request', review(undefined), 'missing'],
    ['no uid', review({ ...request, uid: '' }), 'missing'],
    ['no version', review({ ...request, desiredAPIVersion: 1 }), 'missing'],
    ['no list', review({ ...request, objects: {} }), 'missing'],
  ])('is refused when it is %s', (_, body, words) => {
    expect(() => parseConversionReview(body)).toThrow(words);
  });
});
