/**
 * A straight line through many figures, learned one sample at a time (recursive least squares): old samples fade by
 * `memory` with every new one.
 */
export class LeastSquares {
  readonly #weights: Float64Array;
  /** Inverse of the samples' correlation, row by row. */
  readonly #inverse: Float64Array;
  readonly #memory: number;
  readonly #size: number;
  #samples = 0;

  constructor(size: number, memory = 0.998) {
    this.#size = size;
    this.#memory = memory;
    this.#weights = new Float64Array(size);
    this.#inverse = new Float64Array(size * size);
    this.#reset();
  }

  get samples(): number {
    return this.#samples;
  }

  predict(features: ArrayLike<number>): number {
    let sum = 0;
    for (let i = 0; i < this.#size; i++) sum += (this.#weights[i] ?? 0) * (features[i] ?? 0);
    return sum;
  }

  learn(features: ArrayLike<number>, value: number): void {
    if (!Number.isFinite(value)) return;
    const size = this.#size;
    const inverse = this.#inverse;
    const gain = new Float64Array(size);
    let scale = this.#memory;
    for (let i = 0; i < size; i++) {
      let sum = 0;
      for (let j = 0; j < size; j++) sum += (inverse[i * size + j] ?? 0) * (features[j] ?? 0);
      gain[i] = sum;
      scale += (features[i] ?? 0) * sum;
    }
    const error = value - this.predict(features);
    let trace = 0;
    for (let i = 0; i < size; i++) {
      this.#weights[i] = (this.#weights[i] ?? 0) + ((gain[i] ?? 0) / scale) * error;
      for (let j = 0; j < size; j++) {
        const at = i * size + j;
        inverse[at] = ((inverse[at] ?? 0) - ((gain[i] ?? 0) * (gain[j] ?? 0)) / scale) / this.#memory;
      }
      trace += inverse[i * size + i] ?? 0;
    }
    this.#samples++;
    // Samples that never vary would let it grow without end.
    if (!Number.isFinite(trace) || trace > 1e9) this.#reset();
  }

  #reset(): void {
    this.#inverse.fill(0);
    for (let i = 0; i < this.#size; i++) this.#inverse[i * this.#size + i] = 1e4;
  }
}
