import { convertObject } from '../src/api/v1alpha1/convert.ts';
import type { ConversionRequest } from '../src/kube/conversion.ts';

/** Every object in the version that is asked for. Errors: `invalid` for what is not of our kinds or versions. */
export function convert(request: ConversionRequest): readonly unknown[] {
  return request.objects.map((object) => convertObject(object, request.desiredAPIVersion));
}
