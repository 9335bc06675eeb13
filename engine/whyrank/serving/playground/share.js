// The state of the form as the fragment of a link (after "#"), which browsers do not send to servers.

const PREFIX = "#request=";
const MAX_BYTES = 20 * 2 ** 20; // a short link may decompress to gigabytes

export async function toFragment(state) {
  const packed = new Blob([JSON.stringify(state)]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  const bytes = new Uint8Array(await new Response(packed).arrayBuffer());
  const text = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  return PREFIX + text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
}

export const isShared = (fragment) => fragment.startsWith(PREFIX);

export async function fromFragment(fragment) {
  try {
    const text = atob(fragment.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/"));
    const state = JSON.parse(await unpacked(Uint8Array.from(text, (character) => character.charCodeAt(0))));
    if (state && typeof state === "object") return state;
  } catch { /* reported below */ }
  throw new Error("This link is damaged: a part of it may have been cut off.");
}

async function unpacked(bytes) {
  const decoder = new TextDecoder();
  let size = 0, text = "";
  const reader = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw")).getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return text + decoder.decode();
    if ((size += value.length) > MAX_BYTES) {
      await reader.cancel();
      throw new Error("too large");
    }
    text += decoder.decode(value, { stream: true });
  }
}
