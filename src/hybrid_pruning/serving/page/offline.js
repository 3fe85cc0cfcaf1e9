// Keeps the site's files once they were loaded, and serves them with headers that static hosts do not send: a policy for
// the worker too, and the isolation that threads need. SITE is written above: a digest of all files, their names, the policy.
const HEADERS = {
  "Content-Security-Policy": SITE.policy, "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp", "Cross-Origin-Resource-Policy": "same-origin",
};
const CACHE = registration.scope + SITE.digest;
const FRESH = { cache: "no-cache" };
const nameOf = (url) => url.startsWith(registration.scope) ? url.slice(registration.scope.length).replace(/[?#].*/, "") || "index.html" : "";

addEventListener("install", (event) => event.waitUntil(caches.open(CACHE)
  .then((cache) => cache.addAll(SITE.files.filter((name) => !/\.(onnx|safetensors)$|^runtime/.test(name)).map((name) => new Request(name, FRESH))))));
addEventListener("activate", (event) => event.waitUntil(caches.keys()
  .then((keys) => Promise.all(keys.filter((key) => key.slice(0, -SITE.digest.length) === registration.scope && key !== CACHE).map((key) => caches.delete(key))))
  .then(() => clients.claim())));
addEventListener("fetch", (event) => {
  const name = nameOf(event.request.url);
  if (SITE.files.includes(name)) event.respondWith(answer(name, event));
});

async function answer(name, event) {
  const cache = await caches.open(CACHE);
  let found = await cache.match(name);
  if (!found) {
    found = await fetch(name, FRESH);
    if (found.ok) event.waitUntil(cache.put(name, found.clone()).catch(() => {}));  // no room: it works with network alone
  }
  return new Response(found.body, { status: found.status, headers: { ...Object.fromEntries(found.headers), ...HEADERS } });
}
