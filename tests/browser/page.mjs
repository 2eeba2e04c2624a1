// What a page does around `openDelivery`: keep the buyer's identity, fetch, and save nothing that is not good.
import { openDelivery } from "/open-delivery.mjs";

const bytes = (base64) => Uint8Array.from(atob(base64), (one) => one.charCodeAt(0));
const hex = (data) => Array.from(new Uint8Array(data), (one) => one.toString(16).padStart(2, "0")).join("");
const done = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

async function store(mode) {
  const asked = indexedDB.open("identity", 1);
  asked.onupgradeneeded = () => asked.result.createObjectStore("identity");
  return (await done(asked)).transaction("identity", mode).objectStore("identity");
}

export const keep = async (identity) => void (await done((await store("readwrite")).put(identity, "mine")));
export const kept = async () => done((await store("readonly")).get("mine"));

// Saves a delivery to the origin's private files. Until `close`, what was written is in a file without a name.
export async function save(opening, identity, trustedKeys, pick = (body) => body) {
  const began = performance.now(), answer = await fetch(opening.payload.url);
  if (!answer.ok) throw new Error(`the storage answered ${answer.status}`);
  const folder = await navigator.storage.getDirectory();
  const file = await folder.getFileHandle(opening.file_name, { create: true }), out = await file.createWritable();
  const keys = trustedKeys.map(bytes);
  try {
    await openDelivery(opening, pick(answer.body), identity, keys, (chunk) => out.write(chunk));
  } catch (error) {
    await out.abort();
    throw error;
  }
  await out.close();
  const seconds = (performance.now() - began) / 1000;
  const saved = await file.getFile();
  return { size: saved.size, sha256: hex(await crypto.subtle.digest("SHA-256", await saved.arrayBuffer())), seconds };
}

export async function savedSize(name) {
  const folder = await navigator.storage.getDirectory();
  return (await (await folder.getFileHandle(name)).getFile()).size;
}
