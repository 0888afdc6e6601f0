import { describe, expect, it } from '@jest/globals';
import { AppError } from './errors.ts';
import { helpText, nearest, type Program, parseDurationMs, parseProgram, setting } from './flags.ts';

const settings = {
  port: setting.port({ flag: 'port', aliases: ['listen-port'], env: 'PORT', default: 8000, description: 'port' }),
  secure: setting.boolean({ flag: 'secure-serving', default: true, description: 'TLS' }),
  hosts: setting.list({ flag: 'hosts', description: 'hosts' }),
  mode: setting.oneOf({ flag: 'mode', choices: ['fast', 'slow'], default: 'fast', description: 'mode' }),
  wait: setting.durationMs({ flag: 'wait', default: 1000, description: 'wait' }),
  verbose: setting.integer({ flag: 'v', default: 2, description: 'verbosity' }),
  old: setting.text({ flag: 'old', hidden: true, description: 'kept for old charts' }),
};
const program: Program<typeof settings> = { name: 'thing', summary: 'does things', settings };

const parse = (argv: readonly string[], env: Record<string, string> = {}, file?: string) => {
  const parsed = parseProgram(program, argv, env, file);
  if (parsed.kind !== 'config') throw new Error('help');
  return parsed;
};
const problem = (argv: readonly string[], env: Record<string, string> = {}, file?: string): string => {
  try {
    parse(argv, env, file);
  } catch (thrown) {
    expect(thrown).toBeInstanceOf(AppError);
    expect((thrown as AppError).exit).toBe(2);
    return (thrown as AppError).message;
  }
  throw new Error('it was accepted');
};

describe('flags', () => {
  it.each([
    ['--port 1', { port: 1 }],
    ['--port=1', { port: 1 }],
    ['-port=1', { port: 1 }],
    ['--listen-port=1', { port: 1 }],
    ['-v 4', { verbose: 4 }],
    ['--secure-serving=false', { secure: false }],
    ['--secure-serving', { secure: true }],
    ['--hosts a,b --hosts=c', { hosts: ['a', 'b', 'c'] }],
    ['--mode slow', { mode: 'slow' }],
    ['--wait 1m30s', { wait: 90_000 }],
  ])('reads %s', (line, expected) => {
    expect(parse(line.split(' ')).config).toMatchObject(expected);
  });

  it('prefers flag over env over file over default', () => {
    expect(parse([]).config.port).toBe(8000);
    expect(parse([], {}, 'port: 3').config.port).toBe(3);
    expect(parse([], { PORT: '2' }, 'port: 3').config.port).toBe(2);
    expect(parse(['--port=1'], { PORT: '2' }, 'port: 3').config.port).toBe(1);
  });

  it('knows what was given', () => {
    expect([...parse(['--port=1'], {}, 'mode: slow').given].sort()).toEqual(['mode', 'port']);
  });

  it.each([
    [['--prot=1'], 'unknown flag --prot, did you mean --port?'],
    [['--nonsense'], 'unknown flag --nonsense; --help lists them all'],
    [['--port'], '--port needs a value'],
    [['--port=http'], '--port: "http" is not valid: must be a whole number'],
    [['--port=70000'], '--port: "70000" is not valid'],
    [['--mode=medium'], '--mode: "medium" is not valid'],
    [['--secure-serving=maybe'], '--secure-serving: "maybe" is not valid'],
    [['--wait=soon'], '--wait: "soon" is not valid: must be a duration such as 500ms, 10s or 1h30m'],
  ])('refuses %j', (argv, expected) => {
    expect(problem(argv)).toContain(expected);
  });

  it('lists every problem at once, each with its source', () => {
    const text = problem(['--port=x'], {}, 'mode: medium\ncolour: red');
    expect(text).toContain('--port: "x"');
    expect(text).toContain('key mode of the configuration file: "medium"');
    expect(text).toContain('unknown key colour in the configuration file');
  });

  it('hands on what is not a flag', () => {
    expect(parse(['serve', '--port=1', '--', '--port=2']).rest).toEqual(['serve', '--port=2']);
  });

  it('prints a page without hidden flags', () => {
    const text = helpText(program);
    expect(text).toContain('--port PORT');
    expect(text).toContain('default 8000; env PORT; also --listen-port');
    expect(text).not.toContain('--old');
  });
});

describe('durations', () => {
  it.each([
    ['0', 0],
    ['250ms', 250],
    ['1.5s', 1500],
    ['1h30m', 5_400_000],
    ['10', undefined],
    ['s', undefined],
    ['-1s', undefined],
  ])('%s', (text, ms) => {
    expect(parseDurationMs(text)).toBe(ms);
  });
});

describe('suggestions', () => {
  it('are within two edits', () => {
    expect(nearest('pool-nmae', ['pool-name', 'pool-group'])).toBe('pool-name');
    expect(nearest('xyz', ['pool-name'])).toBeUndefined();
  });
});
