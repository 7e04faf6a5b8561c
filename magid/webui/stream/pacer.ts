// When gathered changes are shown: at the start of a frame, and no more often than can be read.

/** Between two changes of the page. */
export const LEAST_MS = 100;
const HIDDEN_MS = 1_000; // a page that is not shown has no frames

/** Calls `work` once for all calls of `ask` that come together. */
export class Pacer {
  #timer: ReturnType<typeof setTimeout> | undefined;
  #frame: number | undefined;
  #last = -LEAST_MS;

  constructor(readonly work: () => void) {}

  ask(): void {
    if (this.#timer !== undefined) return;
    const wait = this.#last + LEAST_MS - performance.now();
    if (wait > 0) this.#timer = setTimeout(() => this.#atNextFrame(), wait);
    else this.#atNextFrame();
  }

  /** Calls `work` at once, whether anything has asked or not. */
  now(): void {
    this.stop();
    this.#last = performance.now();
    this.work();
  }

  /** What was asked for is not done. */
  stop(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#frame !== undefined) cancelAnimationFrame(this.#frame);
    this.#frame = undefined;
  }

  #atNextFrame(): void {
    this.#frame = requestAnimationFrame(() => this.now());
    this.#timer = setTimeout(() => this.now(), HIDDEN_MS);
  }
}
