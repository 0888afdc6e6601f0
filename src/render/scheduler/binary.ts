import type { Context } from '../input.ts';

/** Which picker runs in a service's pods: ours, or one of upstream's, whose flags and plugins change with its versions. */

export interface PickerBinary {
  readonly isUpstream: boolean;
  /** Major and minor; of ours that of upstream's whose configuration it reads. */
  readonly version: readonly [number, number];
}

/** The container of the picker, as users name it in `scheduler.template`. */
export const pickerContainer = 'main';

/** A user's annotation of the picker's pods: the version of an image whose tag does not tell it. */
const versionAnnotation = 'app.kubernetes.io/version';

/** The newest that is known: what images without a version are taken for. */
const newest = [0, 10] as const;

const upstreamImage = /(^|\/)(llm-d-router-endpoint-picker|llm-d-inference-scheduler)(-[a-z]+)?([:@]|$)/;
/** The picker as it was before it moved, and the version of its successor that is built on each. */
const earlierImage = /(^|\/)gateway-api-inference-extension\/epp([:@]|$)/;

/** What runs as the picker: as the image of the service's template says, else the operator's setting. */
export function pickerBinaryOf({ effective, platform }: Context): PickerBinary {
  const { template, annotations } = effective.router?.scheduler ?? {};
  const own = template?.containers?.find(({ name }) => name === pickerContainer)?.image;
  const image = own ?? platform.images.epp;
  const isEarlier = earlierImage.test(image);
  const isUpstream =
    isEarlier || upstreamImage.test(image) || (own === undefined && platform.images.flavour === 'upstream');
  const told = versionOf(annotations?.[versionAnnotation]);
  const tagged = versionOf(/:([^@/]+)(@|$)/.exec(image)?.[1]);
  return {
    isUpstream,
    version: !isUpstream ? newest : (told ?? (tagged && isEarlier ? successorOf(tagged) : tagged) ?? newest),
  };
}

/** `v0.10.0` and `0.10`, with anything behind; undefined where there is no such thing. */
function versionOf(text: string | undefined): readonly [number, number] | undefined {
  const [, major, minor] = /^v?(\d+)\.(\d+)/.exec(text ?? '') ?? [];
  return major === undefined ? undefined : [Number(major), Number(minor)];
}

function successorOf([major, minor]: readonly [number, number]): readonly [number, number] {
  if (major > 1 || minor >= 5) return [0, 8];
  return minor === 4 ? [0, 7] : [0, 6];
}

export function isAtLeast({ version: [major, minor] }: Pick<PickerBinary, 'version'>, wanted: number): boolean {
  return major > 0 || minor >= wanted;
}
