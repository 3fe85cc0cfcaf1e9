// Answers of the model beside this page, computed by this browser in a thread of its own (worker.js).
const waiting = new Map();
let site, worker, calls = 0;

export const programs = false;
export const privacy = () => "Recordings stay in this browser: nothing is sent anywhere.";

// `tell` gets the progress in words, or each verdict of a stream.
function call(kind, values, transferred = [], tell = () => {}) {
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { tell, resolve, reject });
    worker.postMessage({ id: calls, kind, ...values }, transferred);
  });
}

export async function models(tell) {
  await keep();
  site = await (await fetch("site.json")).json();
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data: { id, progress, found, error } }) => {
    const one = waiting.get(id);
    if (progress) { one.tell(progress); return; }
    waiting.delete(id);
    if (error) one.reject(new Error(error)); else one.resolve(found);
  };
  worker.onerror = ({ message }) => {
    waiting.forEach((one) => one.reject(new Error(`the model cannot be run by this browser (${message || "it has no modules in workers"})`)));
    waiting.clear();
  };
  site.model.engine = await call("load", { site }, [], tell);
  return { models: [site.model], limits: site.limits, margin: site.margin };
}

// offline.js keeps what was loaded; the page is its own from the first visit on, unless this is no https or localhost.
async function keep() {
  try {
    const { active, waiting: next, installing } = await navigator.serviceWorker.register("offline.js"), one = active ?? next ?? installing;
    await new Promise((resolve) => {
      const look = () => { if (["activated", "redundant"].includes(one.state)) resolve(); };
      one.addEventListener("statechange", look);
      look();
    });
  } catch { /* it works without, but not without network */ }
}

async function decode(file) {
  const { megabytes, seconds } = site.limits;
  if (file.size > 1e6 * megabytes) throw new Error(`${file.name}: has more than ${megabytes} MB, which are the most`);
  const bytes = await file.arrayBuffer(), rate = rateOf(new DataView(bytes));
  let sound;
  try {
    sound = await new OfflineAudioContext(1, 1, rate).decodeAudioData(bytes);
  } catch {
    throw new Error(`${file.name}: cannot be decoded by this browser; try WAV, FLAC or MP3`);
  }
  if (sound.duration > seconds) throw new Error(`${file.name}: lasts more than ${seconds} s, which are the most that is taken`);
  return { name: file.name, rate, channels: Array.from({ length: sound.numberOfChannels }, (_, place) => sound.getChannelData(place).slice()) };
}

// A WAV's or FLAC's own rate, at which the browser need not resample; for others one that loses nothing that the model hears.
function rateOf(view) {
  const is = (place, name) => view.byteLength > 28 && [...name].every((letter, index) => view.getUint8(place + index) === letter.charCodeAt(0));
  const rate = is(0, "fLaC") ? view.getUint32(18) >>> 12 : is(0, "RIFF") && is(12, "fmt ") ? view.getUint32(24, true) : 0;
  return rate >= 8000 && rate <= 96000 ? rate : 48000;
}

export async function detect(model, file, seconds, tell) {
  const started = performance.now(), sound = await decode(file);
  const said = (text) => tell(`${file.name}: ${text}`);
  const found = await call("judge", { sound, seconds }, buffers(sound), said);
  return { ...found, model, milliseconds: performance.now() - started };
}

export async function verify(model, test, enrol, tell) {
  const started = performance.now(), sounds = [];
  for (const file of [test, ...enrol]) sounds.push(await decode(file));
  const found = await call("compare", { sounds }, sounds.flatMap(buffers), (name) => tell(`${name}: ${model} is listening`));
  return { ...found, model, milliseconds: performance.now() - started };
}

const buffers = ({ channels }) => channels.map((one) => one.buffer);

// A stream of samples at a rate: the last window of it is judged at each hop.
export function open(model, rate, tell, end) {
  const { hop_samples: hop, window_samples: window, most_waiting: most } = site.stream, scaled = (samples) => Math.round(samples * rate / site.sample_rate_hz);
  const id = ++calls;
  let last = new Float32Array(0), since = 0, busy = 0, done = false;
  const stop = (line) => { done = true; end(line); };
  async function judge() {
    const wave = last.slice();
    tell(await call("hop", { stream: id, wave, rate }, [wave.buffer]));
  }
  function send(samples) {
    for (let rest = samples; rest.length && !done;) {
      const part = rest.subarray(0, scaled(hop) - since), joined = new Float32Array(last.length + part.length);
      joined.set(last);
      joined.set(part, last.length);
      last = joined.slice(-scaled(window));
      rest = rest.subarray(part.length);
      since = (since + part.length) % scaled(hop);
      if (since) continue;
      busy += 1;
      if (busy > most) stop("this browser computes too slowly to follow; record instead");
      else judge().catch((error) => stop(error.message)).finally(() => { busy -= 1; });
    }
  }
  return { send, end: () => { done = true; call("hang", { stream: id }); } };
}
