/**
 * The part of Envoy's `envoy.service.ext_proc.v3` that the picker speaks, read from and written to protobuf's wire
 * format by hand: field numbers from external_processor.proto, base.proto and struct.proto of Envoy's API. Unknown
 * fields are skipped, as protobuf asks.
 */

/** Header names and values in turn, names in lower case: `[':path', '/v1/models', …]`. Repeated headers stay repeated. */
export type HeaderPairs = readonly string[];

/** `BodySendMode` of the filter's processing mode. */
export const bodySendModes = {
  none: 0,
  streamed: 1,
  buffered: 2,
  bufferedPartial: 3,
  fullDuplexStreamed: 4,
  grpc: 5,
} as const;

export interface ProtocolConfig {
  readonly requestBodyMode: number;
  readonly responseBodyMode: number;
}

/** What the gateway says beside the message itself. Each field only where it is given. */
export interface Aside {
  /** Endpoints that the gateway allows, `ip` or `ip:port`; an empty list allows none. */
  readonly subset?: readonly string[];
  /** The endpoint that answered, on the response side. */
  readonly served?: string;
  readonly protocol?: ProtocolConfig;
  /** The gateway only shows us the message and ignores replies. */
  readonly isObserved?: boolean;
}

export type ProcessingRequest =
  | {
      readonly kind: 'requestHeaders' | 'responseHeaders';
      readonly headers: HeaderPairs;
      readonly endOfStream: boolean;
      readonly aside: Aside;
    }
  | {
      readonly kind: 'requestBody' | 'responseBody';
      /** A view into the message. */
      readonly body: Buffer;
      readonly endOfStream: boolean;
      readonly aside: Aside;
    }
  | { readonly kind: 'requestTrailers' | 'responseTrailers'; readonly aside: Aside }
  | { readonly kind: 'unknown' };

/** Dynamic metadata by namespace and key: texts, or numbers by name. */
export type DynamicMetadata = Readonly<
  Record<string, Readonly<Record<string, string | Readonly<Record<string, number>>>>>
>;

export interface HeaderMutation {
  /** Overwrites or adds. */
  readonly set: readonly (readonly [name: string, value: string])[];
  readonly remove: readonly string[];
}

/** What may be said about headers in a reply; about the request's also with its body, in the buffered modes. */
interface HeaderReply {
  readonly mutation?: HeaderMutation;
  readonly clearRouteCache?: boolean;
  readonly metadata?: DynamicMetadata;
}

export type ProcessingResponse =
  | (HeaderReply & { readonly kind: 'requestHeaders' | 'responseHeaders' })
  | (HeaderReply & {
      readonly kind: 'requestBody' | 'responseBody';
      /** For full duplex, at most 62 000 bytes. */
      readonly streamed?: { readonly body: Buffer; readonly endOfStream: boolean };
      /** For the other modes, which send the body themselves: what to send in its place. */
      readonly replacement?: Buffer;
    })
  | { readonly kind: 'requestTrailers' | 'responseTrailers' }
  | {
      readonly kind: 'immediate';
      readonly status: number;
      readonly headers: HeaderMutation;
      readonly body: Buffer;
      /** For the gateway's access log. */
      readonly details: string;
    };

/** The bytes are not the message that they should be. */
export class CodecError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'CodecError';
  }
}

// ---------------------------------------------------------------- reading

/** A cursor over one message; `end` bounds nested ones, so no copies are made. */
class Reader {
  readonly data: Buffer;
  at: number;
  end: number;

  constructor(data: Buffer, at = 0, end = data.length) {
    this.data = data;
    this.at = at;
    this.end = end;
  }

  /** An unsigned number of at most 53 bits; greater ones are told as 2^53. */
  varint(): number {
    let result = 0;
    let scale = 1;
    for (let i = 0; i < 10; i++) {
      if (this.at >= this.end) throw new CodecError('a number is cut off');
      const byte = this.data[this.at++] ?? 0;
      result += (byte & 0x7f) * scale;
      if (byte < 0x80) return Math.min(result, 2 ** 53);
      scale *= 128;
    }
    throw new CodecError('a number is longer than 10 bytes');
  }

  /** Reads a length and returns where that part ends. */
  partEnd(): number {
    const length = this.varint();
    const end = this.at + length;
    if (end > this.end) throw new CodecError(`a part of ${length} bytes is cut off`);
    return end;
  }

  bytes(): Buffer {
    const end = this.partEnd();
    const part = this.data.subarray(this.at, end);
    this.at = end;
    return part;
  }

  text(): string {
    const end = this.partEnd();
    const text = this.data.toString('utf8', this.at, end);
    this.at = end;
    return text;
  }

  skip(tag: number): void {
    switch (tag & 7) {
      case 0:
        this.varint();
        return;
      case 1:
        this.at += 8;
        break;
      case 2:
        this.at = this.partEnd();
        return;
      case 5:
        this.at += 4;
        break;
      default:
        throw new CodecError(`wire type ${tag & 7} is not known`);
    }
    if (this.at > this.end) throw new CodecError('a fixed-size field is cut off');
  }
}

/** Calls `field` for each field of the part that starts with its length at the reader. */
function eachField(reader: Reader, field: (tag: number) => void): void {
  const outer = reader.end;
  reader.end = reader.partEnd();
  while (reader.at < reader.end) field(reader.varint());
  reader.end = outer;
}

/** Field number and wire type of a length-delimited field, as its tag. */
const part = (field: number): number => (field << 3) | 2;
const number = (field: number): number => field << 3;

const requestKinds = new Map([
  [part(2), 'requestHeaders'],
  [part(3), 'responseHeaders'],
  [part(4), 'requestBody'],
  [part(5), 'responseBody'],
  [part(6), 'requestTrailers'],
  [part(7), 'responseTrailers'],
] as const);

const noBytes = Buffer.alloc(0);

/** @throws CodecError when the bytes are no ProcessingRequest */
export function decodeRequest(message: Buffer): ProcessingRequest {
  const reader = new Reader(message);
  let kind: Exclude<ProcessingRequest['kind'], 'unknown'> | undefined;
  let headers: HeaderPairs = [];
  let body: Buffer = noBytes;
  let endOfStream = false;
  const aside: { -readonly [K in keyof Aside]: Aside[K] } = {};

  while (reader.at < reader.end) {
    const tag = reader.varint();
    const found = requestKinds.get(tag);
    if (found !== undefined) {
      kind = found;
      headers = [];
      body = noBytes;
      endOfStream = false;
      if (found === 'requestHeaders' || found === 'responseHeaders') {
        eachField(reader, (inner) => {
          if (inner === part(1)) headers = readHeaderMap(reader);
          else if (inner === number(3)) endOfStream = reader.varint() !== 0;
          else reader.skip(inner);
        });
      } else if (found === 'requestBody' || found === 'responseBody') {
        eachField(reader, (inner) => {
          if (inner === part(1)) body = reader.bytes();
          else if (inner === number(2)) endOfStream = reader.varint() !== 0;
          else reader.skip(inner);
        });
      } else reader.skip(tag);
    } else if (tag === part(8)) readMetadata(reader, aside);
    else if (tag === number(10)) aside.isObserved = reader.varint() !== 0;
    else if (tag === part(11)) {
      let requestBodyMode = 0;
      let responseBodyMode = 0;
      eachField(reader, (inner) => {
        if (inner === number(1)) requestBodyMode = reader.varint();
        else if (inner === number(2)) responseBodyMode = reader.varint();
        else reader.skip(inner);
      });
      aside.protocol = { requestBodyMode, responseBodyMode };
    } else reader.skip(tag);
  }

  switch (kind) {
    case 'requestHeaders':
    case 'responseHeaders':
      return { kind, headers, endOfStream, aside };
    case 'requestBody':
    case 'responseBody':
      return { kind, body, endOfStream, aside };
    case 'requestTrailers':
    case 'responseTrailers':
      return { kind, aside };
    case undefined:
      return { kind: 'unknown' };
  }
}

function readHeaderMap(reader: Reader): HeaderPairs {
  const pairs: string[] = [];
  const outer = reader.end;
  reader.end = reader.partEnd();
  while (reader.at < reader.end) {
    const tag = reader.varint();
    if (tag !== part(1)) {
      reader.skip(tag);
      continue;
    }
    const mapEnd = reader.end;
    reader.end = reader.partEnd();
    let name = '';
    let value = '';
    let raw: string | undefined;
    while (reader.at < reader.end) {
      const field = reader.varint();
      if (field === part(1)) name = reader.text();
      else if (field === part(3)) raw = reader.text();
      else if (field === part(2)) value = reader.text();
      else reader.skip(field);
    }
    reader.end = mapEnd;
    pairs.push(hasUpperCase(name) ? name.toLowerCase() : name, raw ?? value);
  }
  reader.end = outer;
  return pairs;
}

function hasUpperCase(text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    const code = text.charCodeAt(i);
    if (code >= 65 && code <= 90) return true;
  }
  return false;
}

/** Picks the two values that matter out of core.v3.Metadata without building the rest. */
function readMetadata(reader: Reader, aside: { -readonly [K in keyof Aside]: Aside[K] }): void {
  eachField(reader, (tag) => {
    if (tag !== part(1)) {
      reader.skip(tag);
      return;
    }
    let namespace = '';
    eachField(reader, (entry) => {
      if (entry === part(1)) namespace = reader.text();
      else if (entry === part(2) && (namespace === 'envoy.lb.subset_hint' || namespace === 'envoy.lb')) {
        readStruct(reader, (key, value) => {
          if (namespace === 'envoy.lb.subset_hint' && key === 'x-gateway-destination-endpoint-subset') {
            aside.subset = value
              .flatMap((text) => text.split(','))
              .map((text) => text.trim())
              .filter((text) => text !== '');
          } else if (namespace === 'envoy.lb' && key === 'x-gateway-destination-endpoint-served') {
            const [served] = value;
            if (served !== undefined) aside.served = served;
          }
        });
      } else reader.skip(entry);
    });
  });
}

/** Strings, and lists of strings, of a google.protobuf.Struct. */
function readStruct(reader: Reader, entry: (key: string, value: readonly string[]) => void): void {
  eachField(reader, (tag) => {
    if (tag !== part(1)) {
      reader.skip(tag);
      return;
    }
    let key = '';
    let value: readonly string[] = [];
    eachField(reader, (inner) => {
      if (inner === part(1)) key = reader.text();
      else if (inner === part(2)) value = readValue(reader);
      else reader.skip(inner);
    });
    entry(key, value);
  });
}

function readValue(reader: Reader): readonly string[] {
  const values: string[] = [];
  eachField(reader, (tag) => {
    if (tag === part(3)) values.push(reader.text());
    else if (tag === part(6)) {
      eachField(reader, (inner) => {
        if (inner === part(1)) values.push(...readValue(reader));
        else reader.skip(inner);
      });
    } else reader.skip(tag);
  });
  return values;
}

// ---------------------------------------------------------------- writing

/** Writes from the end to the start, so that a part's length is known when its turn comes. */
class BackwardWriter {
  readonly data: Buffer;
  at: number;

  constructor(size: number) {
    this.data = Buffer.allocUnsafe(size);
    this.at = size;
  }

  varint(value: number): void {
    if (value < 0x80) {
      this.data[--this.at] = value;
      return;
    }
    let length = 2;
    for (let rest = Math.floor(value / 0x4000); rest > 0; rest = Math.floor(rest / 128)) length++;
    this.at -= length;
    let rest = value;
    for (let i = 0; i < length - 1; i++) {
      this.data[this.at + i] = (rest % 128) | 0x80;
      rest = Math.floor(rest / 128);
    }
    this.data[this.at + length - 1] = rest;
  }

  bytes(field: number, value: Buffer): void {
    this.at -= value.length;
    value.copy(this.data, this.at);
    this.varint(value.length);
    this.varint(part(field));
  }

  text(field: number, value: string): void {
    const length = Buffer.byteLength(value);
    this.at -= length;
    this.data.write(value, this.at, length, 'utf8');
    this.varint(length);
    this.varint(part(field));
  }

  double(field: number, value: number): void {
    this.at -= 8;
    this.data.writeDoubleLE(value, this.at);
    this.varint((field << 3) | 1);
  }

  /** A bool or an enum. */
  number(field: number, value: number): void {
    this.varint(value);
    this.varint(number(field));
  }

  /** Ends the part whose content was written since `end`. */
  part(field: number, end: number): void {
    this.varint(end - this.at);
    this.varint(part(field));
  }
}

/** More than any tag and length around one value take. */
const slack = 48;

const overwriteIfExistsOrAdd = 2;

const responseFields = {
  requestHeaders: 1,
  responseHeaders: 2,
  requestBody: 3,
  responseBody: 4,
  requestTrailers: 5,
  responseTrailers: 6,
  immediate: 7,
} as const;

/** The replies as gRPC messages, each behind its five-byte frame, in one buffer. */
export function encodeReplies(replies: readonly ProcessingResponse[]): Buffer {
  let bound = 0;
  for (const reply of replies) bound += sizeBound(reply);
  const writer = new BackwardWriter(bound);
  for (let i = replies.length - 1; i >= 0; i--) {
    const reply = replies[i];
    if (reply === undefined) continue;
    const end = writer.at;
    writeReply(writer, reply);
    const length = end - writer.at;
    writer.at -= 5;
    writer.data[writer.at] = 0;
    writer.data.writeUInt32BE(length, writer.at + 1);
  }
  return writer.data.subarray(writer.at);
}

function sizeBound(reply: ProcessingResponse): number {
  switch (reply.kind) {
    case 'requestHeaders':
    case 'responseHeaders':
      return headerReplyBound(reply);
    case 'requestBody':
    case 'responseBody': {
      const size = (reply.streamed?.body.length ?? 0) + (reply.replacement?.length ?? 0) + slack;
      return reply.mutation === undefined ? size : size + headerReplyBound(reply);
    }
    case 'requestTrailers':
    case 'responseTrailers':
      return slack;
    case 'immediate':
      return mutationBound(reply.headers) + reply.body.length + reply.details.length * 3 + 2 * slack;
  }
}

function headerReplyBound({ mutation, metadata }: HeaderReply): number {
  let size = slack + mutationBound(mutation);
  for (const [namespace, values] of Object.entries(metadata ?? {})) {
    size += namespace.length * 3 + slack;
    for (const [key, value] of Object.entries(values)) {
      size += key.length * 3 + slack;
      if (typeof value === 'string') size += value.length * 3;
      else for (const name of Object.keys(value)) size += name.length * 3 + slack;
    }
  }
  return size;
}

function mutationBound(mutation: HeaderMutation | undefined): number {
  let size = slack;
  if (mutation === undefined) return size;
  for (const [name, value] of mutation.set) size += (name.length + value.length) * 3 + slack;
  for (const name of mutation.remove) size += name.length * 3 + slack;
  return size;
}

function writeReply(writer: BackwardWriter, reply: ProcessingResponse): void {
  switch (reply.kind) {
    case 'requestHeaders':
    case 'responseHeaders': {
      if (reply.metadata !== undefined) writeMetadata(writer, reply.metadata);
      const outer = writer.at;
      if (reply.clearRouteCache) writer.number(5, 1);
      if (reply.mutation !== undefined) writeMutation(writer, 2, reply.mutation);
      writer.part(1, outer);
      writer.part(responseFields[reply.kind], outer);
      return;
    }
    case 'requestBody':
    case 'responseBody': {
      if (reply.metadata !== undefined) writeMetadata(writer, reply.metadata);
      const outer = writer.at;
      if (reply.clearRouteCache) writer.number(5, 1);
      const mutation = writer.at;
      if (reply.streamed !== undefined) {
        if (reply.streamed.endOfStream) writer.number(2, 1);
        if (reply.streamed.body.length > 0) writer.bytes(1, reply.streamed.body);
        writer.part(3, mutation);
        writer.part(3, mutation);
      } else if (reply.replacement !== undefined) {
        // Nothing in its place is a field of its own: clear_body.
        if (reply.replacement.length === 0) writer.number(2, 1);
        else writer.bytes(1, reply.replacement);
        writer.part(3, mutation);
      }
      if (reply.mutation !== undefined) writeMutation(writer, 2, reply.mutation);
      writer.part(1, outer);
      writer.part(responseFields[reply.kind], outer);
      return;
    }
    case 'requestTrailers':
    case 'responseTrailers':
      writer.part(responseFields[reply.kind], writer.at);
      return;
    case 'immediate': {
      const outer = writer.at;
      if (reply.details !== '') writer.text(5, reply.details);
      if (reply.body.length > 0) writer.bytes(3, reply.body);
      writeMutation(writer, 2, reply.headers);
      const status = writer.at;
      writer.number(1, reply.status);
      writer.part(1, status);
      writer.part(responseFields.immediate, outer);
      return;
    }
  }
}

function writeMutation(writer: BackwardWriter, field: number, mutation: HeaderMutation): void {
  const outer = writer.at;
  for (let i = mutation.remove.length - 1; i >= 0; i--) writer.text(2, mutation.remove[i] ?? '');
  for (let i = mutation.set.length - 1; i >= 0; i--) {
    const entry = mutation.set[i];
    if (entry === undefined) continue;
    const option = writer.at;
    writer.number(3, overwriteIfExistsOrAdd);
    const header = writer.at;
    // raw_value: Envoy reads only this one unless told otherwise.
    writer.text(3, entry[1]);
    writer.text(1, entry[0]);
    writer.part(1, header);
    writer.part(1, option);
  }
  writer.part(field, outer);
}

function writeMetadata(writer: BackwardWriter, metadata: DynamicMetadata): void {
  const outer = writer.at;
  for (const [namespace, values] of Object.entries(metadata)) {
    const entry = writer.at;
    // Value{struct_value = 5} around Struct{fields = 1}.
    for (const [key, value] of Object.entries(values)) {
      const field = writer.at;
      if (typeof value === 'string') writer.text(3, value);
      else writeNumbers(writer, value);
      writer.part(2, field);
      writer.text(1, key);
      writer.part(1, field);
    }
    writer.part(5, entry);
    writer.part(2, entry);
    writer.text(1, namespace);
    writer.part(1, entry);
  }
  writer.part(8, outer);
}

/** A Value that is a Struct of numbers. */
function writeNumbers(writer: BackwardWriter, values: Readonly<Record<string, number>>): void {
  const end = writer.at;
  for (const [name, value] of Object.entries(values)) {
    const field = writer.at;
    writer.double(2, value);
    writer.part(2, field);
    writer.text(1, name);
    writer.part(1, field);
  }
  writer.part(5, end);
}
