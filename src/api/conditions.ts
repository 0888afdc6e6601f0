/** Condition types and reasons. Reasons are API: users and tools match on them. */

export const conditionTypes = {
  ready: 'Ready',
  presetsCombined: 'PresetsCombined',
  workloadsReady: 'WorkloadsReady',
  mainWorkloadReady: 'MainWorkloadReady',
  workerWorkloadReady: 'WorkerWorkloadReady',
  prefillWorkloadReady: 'PrefillWorkloadReady',
  prefillWorkerWorkloadReady: 'PrefillWorkerWorkloadReady',
  scalingReady: 'ScalingReady',
  prefillScalingReady: 'PrefillScalingReady',
  routerReady: 'RouterReady',
  gatewaysReady: 'GatewaysReady',
  httpRoutesReady: 'HTTPRoutesReady',
  inferencePoolReady: 'InferencePoolReady',
  schedulerWorkloadReady: 'SchedulerWorkloadReady',
  tokenizerReady: 'TokenizerReady',
  /** For information: the service shares the traffic of its group. */
  groupReady: 'GroupReady',
  /** For information: not every member of the group shares its traffic. */
  groupDegraded: 'GroupDegraded',
  /** Of base configurations. */
  configInUse: 'ConfigInUse',
} as const;

export type ConditionType = (typeof conditionTypes)[keyof typeof conditionTypes];

export interface Condition {
  readonly type: string;
  readonly status: 'True' | 'False' | 'Unknown';
  readonly reason?: string;
  readonly message?: string;
  readonly severity?: string;
  readonly observedGeneration?: number;
  readonly lastTransitionTime?: string;
}

/** Reasons that the operator gives. A Deployment's own reasons are passed on beside these. */
export const reasons = {
  stopped: 'Stopped',
  configNotFound: 'ConfigNotFound',
  configInUse: 'InUse',
  configNotInUse: 'NotInUse',
  deletionBlocked: 'DeletionBlocked',
  invalidSpec: 'InvalidRenderedConfig',
  nameTaken: 'NameTaken',
  applyFailed: 'ApplyFailed',
  certificateFailed: 'ReconcileCertsError',
  leaderWorkerSetNotServed: 'LeaderWorkerSetNotServed',
  leaderWorkerSetMissing: 'LeaderWorkerSetMissing',
  leaderWorkerSetProgressing: 'LeaderWorkerSetProgressing',
  deviceClaimsNotServed: 'DeviceClaimsNotServed',
  scalingCrdNotFound: 'ScalingCRDNotFound',
  scalingNotConfigured: 'ScalingNotConfigured',
  hpaProgressing: 'HPAProgressing',
  scaledObjectProgressing: 'ScaledObjectProgressing',
  deploymentMissing: 'DeploymentMissing',
  deploymentProgressing: 'DeploymentProgressing',
  minimumReplicasUnavailable: 'MinimumReplicasUnavailable',
  schedulerUnavailable: 'SchedulerUnavailable',
  gatewayPreconditionNotMet: 'GatewayPreconditionNotMet',
  gatewaysNotReady: 'GatewaysNotReady',
  refsInvalid: 'RefsInvalid',
  httpRoutesNotReady: 'HTTPRoutesNotReady',
  waitingForGateway: 'WaitingForGateway',
  inferencePoolNotReady: 'InferencePoolNotReady',
  finalizationPending: 'FinalizationPending',
  memberDivergence: 'MemberDivergence',
  inferencePoolNotServed: 'InferencePoolNotServed',
} as const;

/** Reasons of a condition that is False for a while and turns by itself; with any other somebody has to do something. */
export const passingReasons: ReadonlySet<string> = new Set([
  reasons.leaderWorkerSetMissing,
  reasons.leaderWorkerSetProgressing,
  reasons.hpaProgressing,
  reasons.scaledObjectProgressing,
  reasons.deploymentMissing,
  reasons.deploymentProgressing,
  reasons.minimumReplicasUnavailable,
  reasons.schedulerUnavailable,
  reasons.gatewaysNotReady,
  reasons.httpRoutesNotReady,
  reasons.waitingForGateway,
  reasons.inferencePoolNotReady,
  reasons.finalizationPending,
]);
