// Asks a delrec-lite server from JavaScript: in Node 18 or later, in Deno, in Bun and in a browser; nothing to install.
//
//   node docs/examples/shop.mjs http://127.0.0.1:8080 "Toy Story (1995)" "Alien (1979)"     (the key in SHOP_KEY)
//
// In a shop the server's key stays on the shop's own server: visitors can read what a page sends. A page may call
// delrec-lite itself where it asks for no key, or from another site after `serve --cors-origin https://shop.example`.

/** An answer that is not 2xx: the server's own words, and what to do. */
export class Refused extends Error {
  constructor(status, message, hint, retryAfter) {
    super(hint ? `${message} (${hint})` : message);
    Object.assign(this, {status, hint, retryAfter});
  }
}

/**
 * The next items after a history.
 *
 * @param {{address: string, key?: string, seconds?: number, attempts?: number}} server
 *   `seconds`: until an attempt is given up; `attempts`: how often a busy server is asked.
 * @param {string[]} history  Titles or `id:ITEM`, oldest first; may be empty.
 * @param {object} [options]  Other fields of POST /v1/recommend: k, exclude, candidates, session, ...
 * @returns {Promise<{items: {rank: number, id: string, title: string, probability: number}[], basis: string}>}
 */
export function recommend(server, history, options = {}) {
  return ask(server, "v1/recommend", {history, ...options});
}

/** Titles of the catalogue that look like some words. */
export function search(server, words, limit = 10) {
  return ask(server, `v1/items?limit=${limit}&query=${encodeURIComponent(words)}`);
}

const LONGEST = 10;  // seconds to wait before an attempt

async function ask({address, key, seconds = 10, attempts = 4}, path, body) {
  for (let attempt = 1; ; attempt++) {
    let failed;
    try {
      return await once(address, key, seconds, path, body);
    } catch (error) {
      failed = error;
    }
    // Busy (503, 429), or no connection: fetch has a TypeError for it. All else would fail again.
    const again = failed.status === 503 || failed.status === 429 || failed instanceof TypeError;
    const wait = Math.max(failed.retryAfter ?? 0, 0.25 * 2 ** (attempt - 1) * (0.5 + Math.random() / 2));
    if (!again || attempt >= attempts || wait > LONGEST) throw failed;
    await new Promise(done => setTimeout(done, 1000 * wait));
  }
}

async function once(address, key, seconds, path, body) {
  const headers = {...(key && {Authorization: `Bearer ${key}`}), ...(body && {"Content-Type": "application/json"})};
  // A proxy before several servers chooses by it; the server itself reads the body's.
  if (body?.session) headers["X-Session"] = encodeURIComponent(body.session).slice(0, 128);
  const answer = await fetch(`${address.replace(/\/+$/, "")}/${path}`, {
    method: body ? "POST" : "GET",
    headers,
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(1000 * seconds),
  });
  const told = await answer.json().catch(() => ({error: `status ${answer.status}, without JSON`, hint: "check the address"}));
  if (answer.ok && !told.error) return told;
  throw new Refused(answer.status, told.error, told.hint, Number(answer.headers.get("Retry-After")) || undefined);
}

if (typeof process !== "undefined" && import.meta.url === `file://${process.argv[1]}`) {
  const [address, ...history] = process.argv.slice(2);
  try {
    const {items, basis} = await recommend({address, key: process.env.SHOP_KEY}, history, {k: 5, session: "example"});
    if (basis === "popularity") console.log("nothing of this history is known: the most popular");
    for (const item of items) console.log(`${item.rank}. ${item.title}  ${(100 * item.probability).toFixed(1)}%`);
  } catch (error) {
    console.error(error.message);
    process.exitCode = 1;
  }
}
