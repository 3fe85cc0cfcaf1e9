// The model, and the rules of Python's `detect`, `Stream` and `verify` with the figures in site.json: sounds -> answers.
const streams = new Map();
let site, ort, model, classifier, cohort, filters = {}, queue = Promise.resolve();

const tasks = { load, judge, compare, hop, hang: ({ stream }) => { streams.delete(stream); } };
onmessage = ({ data }) => {
  const { id } = data, tell = (progress) => postMessage({ id, progress });
  queue = queue.then(() => tasks[data.kind](data, tell))
    .then((found) => postMessage({ id, found }), (error) => postMessage({ id, error: error.message ?? String(error) }));
};

// A file of the site, whole; `tell` gets the progress of all of `names`.
async function read(names, tell) {
  const found = {}, all = names.reduce((sum, name) => sum + site.bytes[name], 0);
  let before = 0;
  for (const name of names) {
    const answer = await fetch(name), bytes = new Uint8Array(site.bytes[name]);
    if (!answer.ok) throw new Error(`${name}: cannot be fetched (status ${answer.status})`);
    let size = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      if (size + value.length <= bytes.length) bytes.set(value, size);
      size += value.length;
      tell(`loading the model: ${((before + size) / 1e6).toFixed(1)} of ${(all / 1e6).toFixed(1)} MB`);
    }
    if (size !== bytes.length) throw new Error(`${name}: has ${size} bytes, not ${bytes.length}; copy the site anew`);
    before += size;
    found[name] = bytes;
  }
  return found;
}

// Returns the engine's name once it gives the score that Python gave: by WebGPU if that does, else by WebAssembly.
async function load(given, tell) {
  ({ site } = given);
  const gpu = site.model.weights === "float32" && await navigator.gpu?.requestAdapter().catch(() => null);
  const wasm = `runtime/ort-wasm-simd-threaded${gpu ? ".asyncify" : ""}.wasm`;
  const beside = ["classifier.onnx", "cohort.safetensors"].filter((name) => name in site.bytes);
  const files = await read(["model.onnx", ...beside, wasm], tell);
  tell("starting the model");
  ort = await import(`./runtime/ort.${gpu ? "webgpu" : "wasm"}.min.mjs`);
  ort.env.logLevel = "error";
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  ort.env.wasm.wasmBinary = files[wasm].buffer;
  const open = (name, provider) => ort.InferenceSession.create(files[name], { executionProviders: [provider], enableMemPattern: false, logSeverityLevel: 3, extra: { session: { disable_quant_qdq: "1" } } });
  if (files["classifier.onnx"]) classifier = await open("classifier.onnx", "wasm");
  if (files["cohort.safetensors"]) cohort = tensors(files["cohort.safetensors"]);
  const probe = Float32Array.from({ length: site.probe.samples }, (_, place) => .1 * Math.sin(1e-5 * place * place));
  let fault;
  for (const provider of gpu ? ["webgpu", "wasm"] : ["wasm"]) {
    try {
      model = await open("model.onnx", provider);
      const score = await audition(probe);
      if (Math.abs(score - site.probe.score) <= site.probe.tolerance) {
        const threads = ort.env.wasm.numThreads;
        return provider === "wasm" ? `WebAssembly, ${threads} thread${threads === 1 ? "" : "s"}` : "WebGPU";
      }
      fault = `this browser gives a probe the score ${score.toFixed(3)}, Python gave ${site.probe.score.toFixed(3)}`;
    } catch (error) { fault = error.message ?? String(error); }
  }
  throw new Error(`the model cannot be run by this browser: ${fault}`);
}

// The score of a wave or, by a verifier, of its first half against its second.
async function audition(wave) {
  if (classifier) return classify(await embed(wave));
  const half = wave.length / 2, vectors = [await embed(wave.subarray(0, half)), await embed(wave.subarray(half))];
  return match(vectors.map((one) => [one]), [half, half].map((size) => size / site.sample_rate_hz));
}

async function embed(wave) {
  const size = Math.max(wave.length, site.minimum_samples);
  const whole = size === wave.length ? wave : Float32Array.from({ length: size }, (_, place) => wave[place % wave.length]);
  const lengths = new ort.Tensor("int64", BigInt64Array.of(BigInt(size)), [1]);
  const { embedding } = await model.run({ wave: new ort.Tensor("float32", whole, [1, size]), lengths }, ["embedding"]);
  return embedding.data;
}

async function classify(embedding) {
  const { llr } = await classifier.run({ embedding: new ort.Tensor("float32", embedding, [1, embedding.length]) });
  if (!Number.isFinite(llr.data[0])) throw new Error("the model's score is not finite");
  return llr.data[0];
}

const mean = (vectors) => vectors[0].map((_, place) => vectors.reduce((sum, one) => Math.fround(sum + one[place]), 0) / vectors.length);

function cut(samples, window) {
  const count = Math.max(1, Math.ceil(samples / window)), length = Math.ceil(samples / count);
  return Array.from({ length: count }, (_, place) => [Math.floor(place * (samples - length) / Math.max(1, count - 1)), length]);
}

// Mean and variance of a part of a wave.
function moments(wave, start, end) {
  let sum = 0, square = 0;
  for (let place = start; place < end; place += 1) sum += wave[place];
  const middle = sum / (end - start);
  for (let place = start; place < end; place += 1) square += (wave[place] - middle) ** 2;
  return { middle, variance: square / (end - start) };
}

const deviations = (wave, size = site.rules.frame) => Array.from({ length: Math.floor(wave.length / size) }, (_, place) => Math.sqrt(moments(wave, place * size, (place + 1) * size).variance));
const levels = (wave) => deviations(wave).map((one) => 20 * Math.log10(Math.max(one, 1e-10)));

function audible(wave) {
  const found = deviations(wave, Math.min(site.rules.frame, wave.length));
  return found.filter((one) => one > 10 ** (site.rules.floor_dbfs / 20)).length >= Math.min(site.rules.least_frames, found.length);
}

function percentile(found, share) {
  const sorted = Float64Array.from(found).sort(), place = share * (sorted.length - 1), low = Math.floor(place);
  return sorted.length ? sorted[low] + (place - low) * (sorted[Math.ceil(place)] - sorted[low]) : -Infinity;
}

const loudest = (found) => percentile(found, .95);
const rangeOf = (found) => found.length ? loudest(found) - percentile(found, .1) : 0;

const active = (found, loud) => found.filter((one) => one > Math.max(site.rules.floor_dbfs, loud - site.rules.active_range_db)).length * site.rules.frame / site.sample_rate_hz;

// The reason why a score says nothing at any prior: of the sound that was heard, or of the score.
function thin(score, { seconds, range, silent }) {
  const { least_active_seconds: least, least_range_db: least_range, no_speech } = site.rules, { seen } = site;
  if (silent) return no_speech;
  if (seconds < least) return `holds ${seconds.toFixed(1)} s of active sound; ${least} s are needed`;
  if (range < least_range) return `is too noisy: its levels differ by ${range.toFixed(1)} dB, those of speech by ${least_range}`;
  return seen && !(seen.least <= score && score <= seen.largest) ? seen.unlike : "";
}

// A sinc in a Kaiser window: 100 dB, flat up to where the resampler of Python is (0.913 of half the lower rate).
const REACH = 73, EDGE = .9565, BETA = 10;
const bessel = (x) => { let sum = 1, term = 1; for (let k = 1; term > 1e-9 * sum; k += 1) sum += term *= (x / 2 / k) ** 2; return sum; };
const PEAK = bessel(BETA);

function kernel(x) {
  const phase = Math.PI * EDGE * x;
  return EDGE * (x ? Math.sin(phase) / phase : 1) * bessel(BETA * Math.sqrt(Math.max(0, 1 - (x / REACH) ** 2))) / PEAK;
}

// The weights of each phase in which a sample at the model's rate can fall between those of another, kept for the next wave.
function phases(rate) {
  const own = site.sample_rate_hz, step = rate / own, wide = Math.max(1, step), divisor = (a, b) => b ? divisor(b, a % b) : a;
  if (filters.rate !== rate) {
    const weights = Array.from({ length: own / divisor(rate, own) }, (_, phase) => {
      const middle = phase * step, first = Math.ceil(middle - REACH * wide), count = Math.floor(middle + REACH * wide) - first + 1;
      return { first, taps: Float32Array.from({ length: count }, (_, tap) => kernel(Math.abs(first + tap - middle) / wide) / wide) };
    });
    filters = { rate, weights, period: Math.round(weights.length * step) };
  }
  return filters;
}

function resample(wave, rate) {
  if (rate === site.sample_rate_hz) return wave;
  const { weights, period } = phases(rate), found = new Float32Array(Math.round(wave.length * site.sample_rate_hz / rate));
  for (let place = 0; place < found.length; place += 1) {
    const { first, taps } = weights[place % weights.length], start = Math.floor(place / weights.length) * period + first;
    const end = Math.min(taps.length, wave.length - start);
    let sum = 0;
    for (let tap = Math.max(0, -start); tap < end; tap += 1) sum += taps[tap] * wave[start + tap];
    found[place] = sum;
  }
  return found;
}

// Channels are averaged, unless that cancels sound out: then the strongest is taken.
function mix(channels, second) {
  if (channels.length === 1) return channels[0];
  const size = channels[0].length, { cancelled_share: share, cancelled_power: least } = site.rules;
  const middle = Float32Array.from({ length: size }, (_, place) => channels.reduce((sum, one) => sum + one[place], 0) / channels.length);
  const power = channels.map(() => 0);
  let cancelled = 0;
  for (let start = 0; start < size; start += second) {
    const end = Math.min(size, start + second), each = channels.map((one) => moments(one, start, end).variance);
    const sum = each.reduce((one, other) => one + other, 0);
    each.forEach((one, place) => { power[place] += (end - start) * one; });
    if (moments(middle, start, end).variance < least * sum / channels.length ** 2) cancelled += (end - start) * sum;
  }
  const all = power.reduce((one, other) => one + other, 0);
  return cancelled > share * all ? channels[power.indexOf(Math.max(...power))] : middle;
}

// The wave at the model's rate of what the browser decoded.
function hear({ name, channels, rate }) {
  const wave = resample(mix(channels, rate), rate);
  if (!wave.length) throw new Error(`${name}: holds no audio`);
  if (!wave.every((one) => Math.abs(one) <= site.rules.loudest)) throw new Error(`${name}: holds values that are not finite, or not from -1 to 1`);
  return wave;
}

async function judge({ sound, seconds }, tell) {
  const wave = hear(sound), rate = site.sample_rate_hz;
  const windows = cut(wave.length, site.window_samples), shorter = cut(wave.length, Math.round(seconds * rate));
  const count = windows.length + (shorter.length > 1 ? shorter.length : 0);
  let done = 0;
  const listen = ([start, size]) => {
    tell(`window ${done += 1} of ${count}`);
    return embed(wave.subarray(start, start + size));
  };
  const vectors = [];
  for (const one of windows) vectors.push(await listen(one));
  const llr = await classify(mean(vectors)), timeline = [];
  for (const one of shorter) {
    const [start, size] = one, found = shorter.length > 1 ? await classify(await listen(one)) : llr;
    timeline.push({ start: start / rate, seconds: size / rate, llr: audible(wave.subarray(start, start + size)) ? found : null });
  }
  const silent = !windows.some(([start, size]) => audible(wave.subarray(start, start + size))), found = levels(wave);
  const seconds_active = active(found, loudest(found)), columns = Math.min(site.rules.columns, wave.length);
  const edges = Array.from({ length: columns + 1 }, (_, place) => Math.floor(place * wave.length / columns));
  const waveform = edges.slice(1).map((end, place) => wave.subarray(edges[place], end).reduce((peak, one) => Math.max(peak, Math.abs(one)), 0));
  return { llr, seconds: wave.length / rate, windows: windows.length, silent, calibrated: site.model.calibrated, thin: thin(llr, { seconds: seconds_active, range: rangeOf(found), silent }), active_seconds: seconds_active, timeline, waveform };
}

// A recording against those of an enrolled speaker, as verify compares them.
async function compare({ sounds }, tell) {
  const vectors = [], seconds = [], heard = [], rate = site.sample_rate_hz;
  for (const sound of sounds) {
    tell(sound.name);
    const wave = hear(sound), found = levels(wave), parts = [];
    for (const [start, size] of cut(wave.length, site.window_samples)) parts.push(await embed(wave.subarray(start, start + size)));
    vectors.push(mean(parts));
    seconds.push(wave.length / rate);
    heard.push({ seconds: active(found, loudest(found)), range: rangeOf(found), silent: !audible(wave) });
  }
  const { kind, calibration } = site.verifier, [test, ...enrol] = vectors, threshold = calibration ? 0 : null;
  const lengths = { test: seconds[0], enrol: seconds.slice(1).reduce((sum, one) => sum + one, 0) };
  const score = match([enrol, [test]], [lengths.enrol, lengths.test]), weak = calibration && Math.abs(score) < site.margin;
  const undecided = heard.map((one) => thin(score, one)).find((one) => one) ?? (weak ? site.rules.weak : "");
  return { score, kind, threshold, verdict: calibration && (score >= 0 ? "same" : "different"), undecided, seconds: lengths };
}

// The score of two sides, each of embeddings and a duration: cosine, AS-norm where there is a cohort, calibration.
function match(sides, seconds) {
  const { top_n: count, calibration } = site.verifier, [one, other] = sides.map(direction), cosine = dot(one, other);
  const measures = {
    "log-seconds": seconds.map((size) => Math.log(Math.max(size, site.rules.shortest_seconds))),
    "embedding-length": sides.map((vectors) => vectors.reduce((sum, vector) => sum + Math.sqrt(dot(vector, vector)), 0) / vectors.length),
  };
  let score = cosine;
  if (cohort) {
    const closest = [one, other].map((side) => moments(impostors(side).sort().subarray(-count), 0, count));
    score = closest.reduce((sum, { middle, variance }) => sum + (cosine - middle) / Math.sqrt(variance) / 2, 0);
    measures["impostor-mean"] = closest.map(({ middle }) => middle);
  }
  if (calibration) {
    const ends = { min: Math.min, max: Math.max }, { scale, offset, qualities } = calibration;
    score = Object.entries(qualities).reduce((all, [name, weight]) => {
      const [, measure, end] = /^(.*)-(min|max)$/.exec(name);
      return all + weight * ends[end](...measures[measure]);
    }, scale * score + offset);
  }
  if (!Number.isFinite(score)) throw new Error("the score is not finite: an embedding has no direction");
  return score;
}

const dot = (one, other) => one.reduce((sum, value, place) => sum + value * other[place], 0);
const unit = (vector) => { const size = Math.sqrt(dot(vector, vector)); return vector.map((value) => value / size); };
const sum = (vectors) => vectors[0].map((_, place) => vectors.reduce((all, vector) => all + vector[place], 0));
const direction = (vectors) => unit(sum(vectors.map((vector) => unit(cohort ? vector.map((value, place) => value - cohort.mean[place]) : vector))));

// The cosines with the speakers of the cohort, [C, E] in a row.
function impostors(side) {
  const { speakers } = cohort, width = side.length;
  return Float64Array.from({ length: speakers.length / width }, (_, place) => dot(side, speakers.subarray(place * width, (place + 1) * width)));
}

// The tensors of a safetensors file of float32: its header's size in 8 bytes, the header, the values.
function tensors(bytes) {
  const size = Number(new DataView(bytes.buffer).getBigUint64(0, true)), header = JSON.parse(new TextDecoder().decode(bytes.subarray(8, 8 + size)));
  return Object.fromEntries(Object.entries(header).filter(([name]) => name !== "__metadata__").map(([name, { data_offsets: [start, end] }]) =>
    [name, new Float32Array(bytes.slice(8 + size + start, 8 + size + end).buffer)]));
}

// One more hop of a stream, given its last window: the verdict on all of it and on the window.
async function hop({ stream, wave: samples, rate }) {
  const wave = resample(samples, rate);
  const { hop_samples: size, window_samples: window, alarm_llr: limit } = site.stream;
  if (!streams.has(stream)) streams.set(stream, { samples: 0, windows: 0, sum: null, llr: 0, heard: 0, loud: -Infinity, range: 0, audible: false });
  const state = streams.get(stream), chunk = wave.subarray(-size), found = levels(chunk), vector = await embed(wave), alone = await classify(vector);
  state.samples += size;
  state.loud = Math.max(state.loud, loudest(found));
  state.heard += active(found, state.loud);
  state.range = Math.max(state.range, rangeOf(levels(wave)));
  state.audible ||= audible(chunk);
  const whole = state.samples % window === 0;
  if (whole) {
    state.sum = state.sum ? state.sum.map((one, place) => one + vector[place]) : vector;
    state.windows += 1;
  }
  if (state.samples <= window) state.llr = alone;
  else if (whole) state.llr = await classify(state.sum.map((one) => one / state.windows));
  const last = audible(wave) ? alone : null, said = thin(state.llr, { seconds: state.heard, range: state.range, silent: !state.audible });
  return {
    seconds: state.samples / site.sample_rate_hz, llr: state.llr, window_llr: last, thin: said, active_seconds: state.heard,
    alarm: limit === null ? null : last !== null && last <= limit, calibrated: site.model.calibrated,
  };
}
