// Opens the delivery vector, whole and spoiled in each of its ways, in Node or in a browser; returns a report.

export const bytes = (base64) => Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
const base64 = (data) => btoa(Array.from(data, (one) => String.fromCharCode(one)).join(""));
const hex = (data) => Array.from(data, (one) => one.toString(16).padStart(2, "0")).join("");
const flipped = (data, at) => Uint8Array.from(data, (one, index) => (index === at ? one ^ 1 : one));

function spoiled(document, { part, flip, cut }) {
  const one = structuredClone(document);
  const change = (data) => (flip === undefined ? data.slice(0, cut) : flipped(data, flip));
  if (part === "payload") one.payload_base64 = base64(change(bytes(one.payload_base64)));
  if (part === "platform_public_key") one.platform_public_key = base64(change(bytes(one.platform_public_key)));
  if (part === "manifest") one.opening.manifest.payload = base64(change(bytes(one.opening.manifest.payload)));
  const [signature] = one.opening.manifest.signatures;
  if (part === "signature") signature.sig = base64(change(bytes(signature.sig)));
  if (part === "identity") one.identity = encode(change(decode(one.identity)));
  return one;
}

const ALPHABET = "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L";
const GENERATOR = [0x3b6a57b2, 0x26508e6d, 0x1ea119fa, 0x3d4233dd, 0x2a1462b3];
function checksum(values) {
  const codes = Array.from("age-secret-key-", (one) => one.charCodeAt(0));
  let sum = 1;
  for (const value of [...codes.map((one) => one >> 5), 0, ...codes.map((one) => one & 31), ...values]) {
    const top = sum >>> 25;
    sum = ((sum & 0x1ffffff) << 5) ^ value;
    GENERATOR.forEach((one, bit) => { if ((top >>> bit) & 1) sum ^= one; });
  }
  return sum;
}
function decode(identity) {
  let number = 0n;
  for (const one of identity.slice("AGE-SECRET-KEY-1".length, -6)) number = (number << 5n) | BigInt(ALPHABET.indexOf(one));
  return Uint8Array.from((number >> 4n).toString(16).padStart(64, "0").match(/../g), (one) => parseInt(one, 16));
}
function encode(secret) {
  let number = BigInt(`0x${hex(secret)}`) << 4n;
  const values = Array.from({ length: 52 }, (_, at) => Number((number >> BigInt(5 * (51 - at))) & 31n));
  const sum = checksum([...values, 0, 0, 0, 0, 0, 0]) ^ 1;
  for (let shift = 25; shift >= 0; shift -= 5) values.push((sum >>> shift) & 31);
  return `AGE-SECRET-KEY-1${values.map((one) => ALPHABET[one]).join("")}`;
}

async function opened(openDelivery, document, size) {
  const payload = bytes(document.payload_base64), plain = [];
  async function* pieces() {
    for (let at = 0; at < payload.length; at += size) yield payload.slice(at, at + size);
  }
  try {
    const keys = [bytes(document.platform_public_key)];
    const sink = (chunk) => plain.push(chunk);
    const manifest = await openDelivery(document.opening, pieces(), document.identity, keys, sink);
    const whole = Uint8Array.from(plain.flatMap((chunk) => Array.from(chunk)));
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
    return { opened: hex(digest), delivery: manifest.delivery_id };
  } catch (error) {
    return { refused: error.message };
  }
}

export async function report({ openDelivery, x25519 }, document) {
  const whole = [];
  for (const size of [1_000, 65_552, 65_568, 1_000_000]) whole.push(await opened(openDelivery, document, size));
  const refused = [];
  for (const one of document.refused) {
    refused.push({ ...one, ...(await opened(openDelivery, spoiled(document, one), 10_000)) });
  }
  const beside = structuredClone(document);
  beside.opening.header_base64 = beside.opening.payload.sha256 = "whatever is said beside the manifest";
  const secret = decode(document.identity), nine = Uint8Array.of(9, ...new Uint8Array(31));
  const [builtIn, own] = [await x25519(secret, nine), await x25519(secret, nine, { own: true })];
  return {
    whole, refused, unsigned: await opened(openDelivery, beside, 10_000), same: hex(builtIn) === hex(own),
  };
}
