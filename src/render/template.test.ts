import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { childName } from './names.ts';
import { text } from './template/functions.ts';
import { Struct, type Value } from './template/value.ts';
import { renderTemplate } from './template.ts';

/**
 * `template/cases.json` holds templates and what Go's text/template makes of them; null is an error. `json` says that Go
 * ran over the template's JSON text. Where Go is present it is asked again; UPDATE_GOLDEN=1 writes down its answers.
 */
interface Case {
  readonly template: string;
  readonly json?: true;
  readonly output: string | null;
}

const file = join(import.meta.dirname, 'template', 'cases.json');
const cases: readonly Case[] = JSON.parse(readFileSync(file, 'utf8'));

const data = {
  name: 'chat',
  n: 4,
  nested: { a: { b: 'deep' } },
  list: [1, 2, 3],
  map: { b: 'two', a: 'one' },
  objects: [
    { n: 'x', l: [1] },
    { n: 'y', l: ['p', 'q'] },
  ],
  empty: '',
  emptyList: [],
  emptyMap: {},
  flag: true,
  off: false,
  zero: 0,
  nil: null,
};

const program = `package main

import (
	"bytes"
	"encoding/json"
	"os"
	"text/template"
)

func ints(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k := range v {
			v[k] = ints(v[k])
		}
	case []any:
		for i := range v {
			v[i] = ints(v[i])
		}
	case float64:
		return int(v)
	}
	return v
}

func run(source string, data any, isJSON bool) *string {
	if isJSON {
		quoted, _ := json.Marshal(source)
		source = string(quoted)
	}
	t, err := template.New("the whole").Option("missingkey=error").Parse(source)
	if err != nil {
		return nil
	}
	var out bytes.Buffer
	if err := t.Execute(&out, data); err != nil {
		return nil
	}
	text := out.String()
	if isJSON {
		if err := json.Unmarshal(out.Bytes(), &text); err != nil {
			return nil
		}
	}
	return &text
}

func main() {
	var input struct {
		Data  any
		Cases []struct {
			Template string
			JSON     bool
		}
	}
	if err := json.NewDecoder(os.Stdin).Decode(&input); err != nil {
		panic(err)
	}
	data := ints(input.Data)
	answers := []*string{}
	for _, c := range input.Cases {
		answers = append(answers, run(c.Template, data, c.JSON))
	}
	if err := json.NewEncoder(os.Stdout).Encode(answers); err != nil {
		panic(err)
	}
}
`;

function askGo(): readonly (string | null)[] {
  const folder = mkdtempSync(join(tmpdir(), 'signalbox-template-'));
  try {
    writeFileSync(join(folder, 'main.go'), program);
    const input = JSON.stringify({
      data,
      cases: cases.map(({ template, json }) => ({ template, json: json ?? false })),
    });
    const env = { ...process.env, GOTOOLCHAIN: 'local', GOFLAGS: '-mod=mod' };
    const ran = spawnSync('go', ['run', join(folder, 'main.go')], { input, encoding: 'utf8', env, timeout: 120_000 });
    if (ran.status !== 0) throw new Error(`go run: ${ran.stderr || ran.error}`);
    return JSON.parse(ran.stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

const hasGo = spawnSync('go', ['version']).status === 0;

function runCase({ template, json }: Case): string | null {
  try {
    return renderTemplate(template, data, { trimming: json ? 'spaces' : 'all' });
  } catch (thrown) {
    if ((thrown as { readonly code?: unknown }).code !== 'invalid') throw thrown;
    return null;
  }
}

describe('templates', () => {
  if (process.env.UPDATE_GOLDEN === '1') {
    const lines = askGo().map((output, i) => JSON.stringify({ ...cases[i], output }));
    writeFileSync(file, `[\n  ${lines.join(',\n  ')}\n]\n`);
  }

  it('do what Go does', () => {
    const wrong = cases
      .map((given) => ({ ...given, actual: runCase(given) }))
      .filter(({ output, actual }) => actual !== output);
    expect(wrong).toEqual([]);
    expect(cases.length).toBeGreaterThan(200);
  });

  (hasGo ? it : it.skip)(
    'are what the Go on this machine says (skipped where there is no go)',
    () => {
      const answers = askGo();
      expect(cases.filter(({ output }, i) => answers[i] !== output)).toEqual([]);
    },
    150_000,
  );

  it('call functions that are given', () => {
    const functions = {
      ChildName: { min: 2, max: 2, call: ([a, b]: readonly Value[]) => childName(text(a), text(b)) },
    };
    expect(renderTemplate('{{ ChildName .name `-kserve` }}', data, { functions })).toBe('chat-kserve');
    expect(() => renderTemplate('{{ ChildName 1 `x` }}', data, { functions })).toThrow('expected string; got int');
    expect(() => renderTemplate('a\n{{ ChildName `x` }}', data, { functions })).toThrow(
      'line 2: wrong number of args for ChildName: want 2 got 1',
    );
  });

  it('read structs: unset fields are nil, others do not exist', () => {
    class Point extends Struct {
      readonly typeName = 'Point';
      field(name: string) {
        return name === 'X' ? { value: 7 } : name === 'Y' ? { value: null } : undefined;
      }
      entries() {
        return [['X', 7]] as const;
      }
    }
    const at = (source: string) => renderTemplate(source, new Point());
    expect(at('{{ .X }} {{ .Y }} {{ if .Y }}a{{ else }}b{{ end }} {{ or .Y 3 }}')).toBe('7 <nil> b 3');
    expect(() => at('{{ .Z }}')).toThrow("line 1: can't evaluate field Z in type Point");
    expect(() => at('{{ .Y.Z }}')).toThrow('nil pointer evaluating .Z');
  });

  it.each([
    ['{{ range 1000000000 }}{{ end }}', 'steps'],
    ['{{ range 1000 }}{{ range 1000 }}{{ end }}{{ end }}', 'steps'],
    ['{{ range 2000 }}{{ printf "%1000d" . }}{{ end }}', 'characters'],
    ['{{ define "r" }}{{ template "r" }}{{ end }}{{ template "r" }}', 'without end'],
    [`{{ ${'('.repeat(10_000)}1${')'.repeat(10_000)} }}`, 'too deeply'],
  ])('end: %.60s', (source, message) => {
    expect(() => renderTemplate(source, data)).toThrow(message);
  });

  it('see own properties of maps only', () => {
    expect(() => renderTemplate('{{ .constructor }}', data)).toThrow('no entry');
    expect(() => renderTemplate('{{ .nested.__proto__ }}', data)).toThrow('no entry');
  });
});
