import { isIP } from 'node:net';

/** A place to send a prefill to. */
export interface Target {
  /** `ip:port` or `host:port`, IPv6 in brackets: the key of pools and of the allow-list, and what headers show. */
  readonly hostPort: string;
  readonly host: string;
  readonly port: number;
}

/**
 * Parses `host:port`. A scheme prefix and blanks are tolerated, IPv6 wants brackets; a path, user or missing port make it
 * undefined.
 */
export function parseHostPort(text: string): Target | undefined {
  const plain = text
    .trim()
    .replace(/^https?:\/\//i, '')
    .replace(/\/$/, '');
  const match = /^(?:\[([0-9a-f:.]+)\]|([a-z0-9._-]+)):(\d{1,5})$/i.exec(plain);
  if (!match) return undefined;
  const host = (match[1] ?? match[2] ?? '').toLowerCase();
  const port = Number(match[3]);
  if (port < 1 || port > 65_535) return undefined;
  if (match[1] !== undefined && isIP(host) !== 6) return undefined;
  return { host, port, hostPort: toHostPort(host, port) };
}

/** `host:port` with an IPv6 address in brackets. */
export function toHostPort(host: string, port: number): string {
  return host.includes(':') ? `[${host.toLowerCase()}]:${port}` : `${host}:${port}`;
}

/** The targets of an `x-prefiller-host-port` header, several lines already joined by commas; the malformed ones apart. */
export function parseTargets(header: string): {
  readonly targets: readonly Target[];
  readonly malformed: readonly string[];
} {
  const targets: Target[] = [];
  const malformed: string[] = [];
  for (const part of header.split(',')) {
    if (part.trim() === '') continue;
    const target = parseHostPort(part);
    if (target) targets.push(target);
    else malformed.push(part.trim());
  }
  return { targets, malformed };
}
