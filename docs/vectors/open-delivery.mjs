// Opens and verifies a delivery in a browser, or in Node: an implementation apart from the marketplace's own.
//
// WebCrypto gives HMAC, Ed25519 and, where it has it, X25519; it has no ChaCha20-Poly1305 and no SHA-256 that is
// fed piece by piece, so both are here. Memory does not grow with the bundle: plaintext goes to `sink` chunk by
// chunk, and is good only once the promise resolves. Until then keep it under a temporary name.
//
//   const manifest = await openDelivery(opening, payload, identity, trustedKeys, sink)
//
// opening      the answer of GET /v1/deliveries/{id}/opening; only its `manifest` is believed, once verified
// payload      a ReadableStream or another async iterable of Uint8Array: (await fetch(opening.payload.url)).body
// identity     'AGE-SECRET-KEY-1…'
// trustedKeys  the platform's Ed25519 keys as Uint8Array, from a channel that you trust, not from `opening`

const subtle = globalThis.crypto.subtle;
const utf8 = (text) => new TextEncoder().encode(text);
const text = (bytes) => new TextDecoder("utf-8", { fatal: true }).decode(bytes);
const hex = (bytes) => Array.from(bytes, (one) => one.toString(16).padStart(2, "0")).join("");
const base64 = (string) => Uint8Array.from(atob(string), (one) => one.charCodeAt(0));
const concat = (...parts) => {
  const whole = new Uint8Array(parts.reduce((size, one) => size + one.length, 0));
  let at = 0;
  for (const one of parts) { whole.set(one, at); at += one.length; }
  return whole;
};
const fail = (reason) => { throw new Error(reason); };

export async function openDelivery(opening, payload, identity, trustedKeys, sink) {
  const manifest = await verified(opening.manifest, trustedKeys);
  const header = base64(manifest.header_b64);
  const fileKey = await unwrap(header, bech32(identity));
  const sealed = new Sha256(), plain = new Sha256();
  let nonce, key, counter = 0;
  const chunks = exactly(payload, 16, 65552);
  for await (const { bytes, last } of chunks) {
    sealed.update(bytes);
    if (nonce === undefined) { nonce = bytes; key = await hkdf(fileKey, nonce, "payload"); continue; }
    const chunk = decrypt(key, stream(counter++, last), bytes);
    if (chunk.length === 0 && counter > 1) fail("an empty last chunk");
    plain.update(chunk);
    await sink(chunk);
  }
  if (counter === 0) fail("the payload is cut");
  same(sealed, manifest.payload, "payload");
  same(plain, manifest.plaintext, "plaintext");
  return manifest;
}

async function verified(envelope, trustedKeys) {
  const type = "application/vnd.in-toto+json";
  if (envelope.payloadType !== type) fail("not an in-toto envelope");
  const signed = base64(envelope.payload);
  const message = concat(utf8(`DSSEv1 ${type.length} ${type} ${signed.length} `), signed);
  let good = false;
  for (const key of trustedKeys) {
    const imported = await subtle.importKey("raw", key, { name: "Ed25519" }, false, ["verify"]);
    for (const one of envelope.signatures) {
      good ||= await subtle.verify({ name: "Ed25519" }, imported, base64(one.sig), message);
    }
  }
  if (!good) fail("no trusted key signed the manifest");
  const statement = JSON.parse(text(signed));
  if (statement.predicateType !== "urn:illuvrse:marketplace:delivery-manifest:v1") fail("not a delivery manifest");
  return statement.predicate;
}

function same(digest, expected, what) {
  if (digest.size !== expected.size || digest.hex() !== expected.sha256) fail(`the ${what} is not what was signed`);
}

// -- age ---------------------------------------------------------------------------------------------------------

const HEADER = new RegExp(
  "^(age-encryption\\.org/v1\\n-> X25519 ([A-Za-z0-9+/]{43})\\n([A-Za-z0-9+/]{43})\\n---) ([A-Za-z0-9+/]{43})\\n$",
);

async function unwrap(header, secret) {
  const [, authenticated, share64, body64, mac64] = HEADER.exec(text(header)) ?? fail("not an age header of ours");
  const share = base64(share64 + "=");
  const recipient = await x25519(secret, Uint8Array.of(9, ...new Uint8Array(31)));
  const shared = await x25519(secret, share);
  if (shared.every((one) => one === 0)) fail("a share of low order");
  const wrapping = await hkdf(shared, concat(share, recipient), "age-encryption.org/v1/X25519");
  const fileKey = decrypt(wrapping, new Uint8Array(12), base64(body64 + "="), "this key does not open the delivery");
  const mac = await hmac(await hkdf(fileKey, new Uint8Array(0), "header"), utf8(authenticated));
  if (hex(mac) !== hex(base64(mac64 + "="))) fail("the header was altered");
  return fileKey;
}

const stream = (counter, last) => {
  const nonce = new DataView(new ArrayBuffer(12));
  nonce.setBigUint64(3, BigInt(counter));
  nonce.setUint8(11, last ? 1 : 0);
  return new Uint8Array(nonce.buffer);
};

// Cuts a stream of any pieces into `first` bytes and then chunks of `size`; the last one may be shorter.
async function* exactly(payload, first, size) {
  let held = new Uint8Array(0), wanted = first;
  for await (const piece of pieces(payload)) {
    held = concat(held, piece);
    let at = 0;
    // One byte more must be there before a chunk is known not to be the last.
    while (held.length - at > wanted) {
      yield { bytes: held.subarray(at, at + wanted), last: false };
      at += wanted;
      wanted = size;
    }
    held = held.slice(at);
  }
  yield { bytes: held, last: wanted === size };
}

// Not every browser can iterate over its streams.
async function* pieces(payload) {
  if (payload[Symbol.asyncIterator]) return yield* payload;
  const reader = payload.getReader();
  try {
    for (let next = await reader.read(); !next.done; next = await reader.read()) yield next.value;
  } finally {
    await reader.cancel(); // the rest is not wanted when a chunk was refused
  }
}

function bech32(encoded) {
  const alphabet = "qpzry9x8gf2tvdw0s3jn54khce6mua7l", prefix = "age-secret-key-";
  const lower = encoded === encoded.toUpperCase() ? encoded.toLowerCase() : fail("not an age identity");
  if (!lower.startsWith(`${prefix}1`)) fail("not an age identity");
  const values = Array.from(lower.slice(prefix.length + 1), (one) => alphabet.indexOf(one));
  if (values.length !== 58 || values.includes(-1)) fail("not an age identity");
  const codes = Array.from(prefix, (one) => one.charCodeAt(0));
  let checksum = 1;
  for (const value of [...codes.map((one) => one >> 5), 0, ...codes.map((one) => one & 31), ...values]) {
    const top = checksum >>> 25;
    checksum = ((checksum & 0x1ffffff) << 5) ^ value;
    [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3].forEach((one, bit) => {
      if ((top >>> bit) & 1) checksum ^= one;
    });
  }
  if (checksum !== 1) fail("the age identity is mistyped");
  let number = 0n;
  for (const value of values.slice(0, 52)) number = (number << 5n) | BigInt(value);
  return toBytes(number >> 4n, 32).reverse();
}

// -- primitives ----------------------------------------------------------------------------------------------------

async function hmac(key, message) {
  const imported = await subtle.importKey("raw", key, { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  return new Uint8Array(await subtle.sign("HMAC", imported, message));
}

async function hkdf(key, salt, info) {
  const extracted = await hmac(salt.length ? salt : new Uint8Array(32), key);
  return hmac(extracted, concat(utf8(info), Uint8Array.of(1)));
}

export async function x25519(secret, point, { own = false } = {}) {
  if (!own) {
    try {
      const pkcs8 = concat(base64("MC4CAQAwBQYDK2VuBCIEIA=="), secret);
      const key = await subtle.importKey("pkcs8", pkcs8, { name: "X25519" }, false, ["deriveBits"]);
      const other = await subtle.importKey("raw", point, { name: "X25519" }, false, []);
      return new Uint8Array(await subtle.deriveBits({ name: "X25519", public: other }, key, 256));
    } catch (error) {
      if (error.name !== "NotSupportedError" && error.name !== "SyntaxError") throw error;
    }
  }
  return ladder(secret, point); // a browser without X25519
}

// RFC 7748, section 5. BigInt is not constant in time: it serves one's own key on one's own machine.
function ladder(secret, point) {
  const p = (1n << 255n) - 19n, mod = (one) => ((one % p) + p) % p;
  const scalar = Uint8Array.from(secret), u = Uint8Array.from(point);
  scalar[0] &= 248; scalar[31] = (scalar[31] & 127) | 64; u[31] &= 127;
  const k = fromBytes(scalar), x1 = mod(fromBytes(u));
  let [x2, z2, x3, z3, swap] = [1n, 0n, x1, 1n, 0n];
  for (let t = 254n; t >= 0n; t--) {
    const bit = (k >> t) & 1n;
    if (swap ^ bit) [x2, z2, x3, z3] = [x3, z3, x2, z2];
    swap = bit;
    const a = x2 + z2, b = x2 - z2, aa = mod(a * a), bb = mod(b * b), e = mod(aa - bb);
    const da = mod((x3 - z3) * a), cb = mod((x3 + z3) * b);
    [x3, z3] = [mod((da + cb) ** 2n), mod(x1 * mod((da - cb) ** 2n))];
    [x2, z2] = [mod(aa * bb), mod(e * (aa + 121665n * e))];
  }
  if (swap) [x2, z2] = [x3, z3];
  let inverse = 1n, base = z2;
  for (let power = p - 2n; power > 0n; power >>= 1n) {
    if (power & 1n) inverse = mod(inverse * base);
    base = mod(base * base);
  }
  return toBytes(mod(x2 * inverse), 32);
}

const fromBytes = (bytes) => bytes.reduceRight((number, one) => (number << 8n) | BigInt(one), 0n);
const toBytes = (number, size) =>
  Uint8Array.from({ length: size }, (_, at) => Number((number >> BigInt(8 * at)) & 255n));

// RFC 8439.
function chacha(key, nonce, counter, data) {
  const view = (bytes) => new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const start = new Uint32Array(16), state = new Uint32Array(16), k = view(key), n = view(nonce);
  start.set([0x61707865, 0x3320646e, 0x79622d32, 0x6b206574]);
  for (let one = 0; one < 8; one++) start[4 + one] = k.getUint32(4 * one, true);
  for (let one = 0; one < 3; one++) start[13 + one] = n.getUint32(4 * one, true);
  const out = new Uint8Array(data.length), block = new DataView(new ArrayBuffer(64));
  const quarter = (a, b, c, d) => {
    const rotate = (at, by) => { state[at] = (state[at] << by) | (state[at] >>> (32 - by)); };
    state[a] += state[b]; state[d] ^= state[a]; rotate(d, 16);
    state[c] += state[d]; state[b] ^= state[c]; rotate(b, 12);
    state[a] += state[b]; state[d] ^= state[a]; rotate(d, 8);
    state[c] += state[d]; state[b] ^= state[c]; rotate(b, 7);
  };
  for (let at = 0; at < data.length; at += 64) {
    start[12] = counter++;
    state.set(start);
    for (let round = 0; round < 10; round++) {
      quarter(0, 4, 8, 12); quarter(1, 5, 9, 13); quarter(2, 6, 10, 14); quarter(3, 7, 11, 15);
      quarter(0, 5, 10, 15); quarter(1, 6, 11, 12); quarter(2, 7, 8, 13); quarter(3, 4, 9, 14);
    }
    for (let one = 0; one < 16; one++) block.setUint32(4 * one, state[one] + start[one], true);
    for (let one = 0; one < 64 && at + one < data.length; one++) out[at + one] = data[at + one] ^ block.getUint8(one);
  }
  return out;
}

function poly1305(key, message) {
  const word = ({ buffer, byteOffset }, at) => {
    const view = new DataView(buffer, byteOffset + at, 16);
    return view.getBigUint64(0, true) | (view.getBigUint64(8, true) << 64n);
  };
  const bits = (1n << 130n) - 1n, p = bits - 4n, r = word(key, 0) & 0x0ffffffc0ffffffc0ffffffc0fffffffn;
  let sum = 0n;
  // AEAD pads its message to whole blocks. 2^130 is 5 modulo p, so that a fold keeps the sum small.
  for (let at = 0; at < message.length; at += 16) {
    sum = (sum + word(message, at) + (1n << 128n)) * r;
    sum = (sum & bits) + 5n * (sum >> 130n);
  }
  return toBytes(((sum % p) + word(key, 16)) & ((1n << 128n) - 1n), 16);
}

function decrypt(key, nonce, sealed, reason = "the payload was altered or cut") {
  if (sealed.length < 16) fail(reason);
  const data = sealed.slice(0, -16), padding = new Uint8Array((16 - (data.length % 16)) % 16);
  const lengths = concat(new Uint8Array(8), toBytes(BigInt(data.length), 8));
  const tag = poly1305(chacha(key, nonce, 0, new Uint8Array(64)).slice(0, 32), concat(data, padding, lengths));
  if (hex(tag) !== hex(sealed.slice(-16))) fail(reason);
  return chacha(key, nonce, 1, data);
}

// FIPS 180-4, fed piece by piece.
const PRIMES = [];
for (let one = 2; PRIMES.length < 64; one++) if (PRIMES.every((prime) => one % prime)) PRIMES.push(one);
const fraction = (root) => Math.floor((root - Math.floor(root)) * 2 ** 32);
const ROUND = Uint32Array.from(PRIMES, (one) => fraction(Math.cbrt(one)));

class Sha256 {
  size = 0;
  #state = Uint32Array.from(PRIMES.slice(0, 8), (one) => fraction(Math.sqrt(one)));
  #held = new Uint8Array(0);

  update(bytes) {
    this.size += bytes.length;
    const data = concat(this.#held, bytes), whole = data.length - (data.length % 64);
    for (let at = 0; at < whole; at += 64) this.#block(data, at);
    this.#held = data.slice(whole);
  }

  hex() {
    const padding = new Uint8Array(((119 - (this.size % 64)) % 64) + 1);
    padding[0] = 128;
    const size = this.size;
    this.update(padding);
    this.update(toBytes(BigInt(size) * 8n, 8).reverse());
    return Array.from(this.#state, (one) => one.toString(16).padStart(8, "0")).join("");
  }

  #block(data, at) {
    const w = new Uint32Array(64), view = new DataView(data.buffer, data.byteOffset + at, 64);
    const turn = (one, by) => (one >>> by) | (one << (32 - by));
    for (let t = 0; t < 16; t++) w[t] = view.getUint32(4 * t);
    for (let t = 16; t < 64; t++) {
      const x = w[t - 15], y = w[t - 2];
      w[t] = w[t - 16] + (turn(x, 7) ^ turn(x, 18) ^ (x >>> 3)) + w[t - 7] + (turn(y, 17) ^ turn(y, 19) ^ (y >>> 10));
    }
    let [a, b, c, d, e, f, g, h] = this.#state;
    for (let t = 0; t < 64; t++) {
      const one = (h + (turn(e, 6) ^ turn(e, 11) ^ turn(e, 25)) + ((e & f) ^ (~e & g)) + ROUND[t] + w[t]) | 0;
      const two = ((turn(a, 2) ^ turn(a, 13) ^ turn(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))) | 0;
      [h, g, f, e, d, c, b, a] = [g, f, e, (d + one) | 0, c, b, a, (one + two) | 0];
    }
    [a, b, c, d, e, f, g, h].forEach((one, index) => { this.#state[index] += one; });
  }
}
