/** Where commands write: lines for people, coloured where it is a terminal. */
export interface Output {
  readonly isTerminal: boolean;
  line(text?: string): void;
  /** Text without a line end: tokens as they come. */
  raw(text: string): void;
  readonly bold: (text: string) => string;
  readonly dim: (text: string) => string;
  readonly good: (text: string) => string;
  readonly bad: (text: string) => string;
  readonly warn: (text: string) => string;
}

export interface OutputStream {
  write(text: string): unknown;
  readonly isTTY?: boolean;
}

/** @param noColour the user's wish (NO_COLOR) over what the terminal can */
export function createOutput(stream: OutputStream, noColour = false): Output {
  const isTerminal = stream.isTTY === true;
  const paint = (code: string) => (text: string) =>
    isTerminal && !noColour ? `\u001b[${code}m${text}\u001b[0m` : text;
  return {
    isTerminal,
    line: (text = '') => void stream.write(`${text}\n`),
    raw: (text) => void stream.write(text),
    bold: paint('1'),
    dim: paint('2'),
    good: paint('32'),
    bad: paint('31'),
    warn: paint('33'),
  };
}

/** Columns padded to their widest cell, two spaces apart, as kubectl prints them. */
export function renderTable(rows: readonly (readonly string[])[]): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => {
      widths[i] = Math.max(widths[i] ?? 0, cell.length);
    });
  }
  return rows
    .map((row) => row.map((cell, i) => (i === row.length - 1 ? cell : cell.padEnd((widths[i] ?? 0) + 3))).join(''))
    .join('\n');
}
