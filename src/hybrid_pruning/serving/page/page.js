// The page: what is asked and shown. Answers come from source.js: of a server (remote.js) or of this browser (local.js).
import * as source from "./source.js";

const $ = (id) => document.getElementById(id);
const SHARES = [.1, .5, 1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 90, 95, 98, 99];
const TIMELINE_SECONDS = 2, CHART = 120, FULL = 10;
const results = [], enrolled = [];
let about = { models: [], margin: 0, limits: {} };

const make = (tag, properties = {}, ...children) => {
  const found = Object.assign(document.createElement(tag), properties);
  found.append(...children);
  return found;
};
const draw = (tag, attributes = {}, ...children) => {
  const found = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) found.setAttribute(name, value);
  found.append(...children);
  return found;
};
const say = (text, wrong = false) => { $("status").textContent = text; $("status").className = wrong ? "error" : ""; };
const threshold = () => { const p = SHARES[$("prior").value] / 100; return Math.log(p / (1 - p)); };
const signed = (value) => (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
const spent = (found, seconds) => {
  const { engine, weights, megabytes } = about.models.find((one) => one.name === found.model), each = found.milliseconds / 1000 / seconds;
  return `${found.model}: ${engine}, ${weights}, ${megabytes.toFixed(1)} MB; took ${found.milliseconds.toFixed(0)} ms, ${each.toPrecision(2)} s for each second of audio`;
};
const chosen = () => [...document.querySelectorAll("#models input:checked")].map((box) => box.value);

// what is known of a detection at the expectation that the slider states
function judge(found) {
  const margin = found.calibrated ? about.margin : 0, distance = found.llr - threshold();
  const doubt = found.thin || (Math.abs(distance) < margin ? "the evidence is too weak at your expectation" : "");
  if (doubt) return { word: "Undecided", sign: "?", kind: "unsure", doubt };
  return distance >= 0 ? { word: "Real", sign: "✓", kind: "real", doubt } : { word: "Fake", sign: "✗", kind: "fake", doubt };
}

function scale(value, limit, label, left, right) {
  const x = (one) => 100 + 100 * Math.max(-1, Math.min(1, one / FULL));
  const marks = [draw("line", { x1: 0, x2: 200, y1: 10, y2: 10, class: "axis" }),
    draw("line", { x1: x(limit), x2: x(limit), y1: 2, y2: 18, class: "axis" }),
    draw("circle", { cx: x(value), cy: 10, r: 5, class: value < limit ? "fake" : "real" })];
  return make("div", { className: "llr" }, draw("svg", { viewBox: "0 0 200 20", role: "img", "aria-label": label }, ...marks),
    make("div", { className: "scale", ariaHidden: "true" }, ...[left, "0", right].map((text) => make("span", {}, text))));
}

function showTimeline(found) {
  const total = found.seconds, step = 240 / found.waveform.length, limit = threshold(), peak = Math.max(.01, ...found.waveform);
  const wave = found.waveform.map((level, place) => draw("rect",
    { x: place * step, width: step, y: 30 - 28 * level / peak, height: Math.max(.4, 56 * level / peak), class: "wave" }));
  const windows = found.timeline.filter((one) => one.llr !== null).map((one) => {
    const size = Math.max(2, Math.min(20, 4 * Math.abs(one.llr - limit))), fake = one.llr < limit;
    return draw("rect", { x: 240 * one.start / total + .3, width: Math.max(.5, 240 * one.seconds / total - .6),
      y: fake ? 85 : 85 - size, height: size, class: fake ? "fake" : "real" });
  });
  const name = `waveform of ${total.toFixed(1)} s, and the score of each window: above the line real, below it fake`;
  const rows = found.timeline.map((one) => make("tr", {}, make("td", {}, `${one.start.toFixed(1)} to ${(one.start + one.seconds).toFixed(1)} s`),
    make("td", {}, one.llr === null ? "silent" : signed(one.llr))));
  return make("div", {},
    draw("svg", { viewBox: "0 0 240 106", role: "img", "aria-label": name }, ...wave,
      draw("line", { x1: 0, x2: 240, y1: 85, y2: 85, class: "axis" }), ...windows),
    make("div", { className: "scale", ariaHidden: "true" }, make("span", {}, "0 s"), make("span", {}, `${total.toFixed(1)} s`)),
    make("details", {}, make("summary", {}, "Score of each window"), make("table", {},
      make("thead", {}, make("tr", {}, make("th", {}, "where"), make("th", {}, "LLR"))), make("tbody", {}, ...rows))));
}

function showDetection(found) {
  const { word, sign, kind, doubt } = judge(found);
  const fake = 1 / (1 + Math.exp(found.llr - threshold()));
  const lines = [make("p", { className: `word ${kind}` }, `${sign} ${word}`)];
  if (doubt) lines.push(make("p", {}, doubt));
  lines.push(make("p", {}, `LLR ${signed(found.llr)}`,
    found.calibrated ? `; probability of a fake ${(100 * fake).toFixed(fake > .995 || fake < .005 ? 2 : 0)}%` : "; not calibrated, its size is rough"));
  lines.push(scale(found.llr, threshold(), `LLR ${signed(found.llr)} on a scale from −10, fake, to +10, real`, "−10 fake", "real +10"));
  lines.push(make("p", { className: "hint" }, spent(found, found.seconds)));
  return make("div", {}, ...lines, showTimeline(found));
}

function named(found) {
  const doubt = found.undecided || (found.verdict ? "" : "the model is not calibrated: there is no verdict");
  return doubt ? ["? Undecided", "unsure", doubt] : found.verdict === "same" ? ["✓ Same speaker", "real", ""] : ["✗ Different speakers", "fake", ""];
}

function showMatch(found) {
  const [word, kind, doubt] = named(found);
  const lines = [make("p", { className: `word ${kind}` }, word)];
  if (doubt) lines.push(make("p", {}, doubt));
  lines.push(make("p", {}, `${found.kind} ${signed(found.score)}`));
  if (found.kind === "LLR") lines.push(scale(found.score, found.threshold, `LLR ${signed(found.score)} from −10, different, to +10, same`, "−10 different", "same +10"));
  return make("div", {}, ...lines, make("p", { className: "hint" }, spent(found, found.seconds.test + found.seconds.enrol)));
}

function render() {
  $("share").textContent = `${SHARES[$("prior").value]}%`;
  $("prior").setAttribute("aria-valuetext", `${SHARES[$("prior").value]} percent`);
  $("empty").hidden = results.length > 0;
  $("clear").hidden = !results.length;
  $("results").replaceChildren(...results.map((one) => make("article", {}, make("h3", {}, one.title), one.player,
    make("div", { className: "grid" }, ...one.found.map((found) => found.error ? make("p", { className: "error" }, found.error)
      : "llr" in found ? showDetection(found) : showMatch(found))))));
}

function addResult(title, file) {
  const url = URL.createObjectURL(file), result = { title, url, found: [], player: make("audio", { controls: true, src: url, title }) };
  results.unshift(result);
  return result;
}

async function collect(result, work) {
  try { result.found.push(await work()); } catch (error) { result.found.push({ error: error.message }); }
  if (result.found[0].seconds > 0 && !result.timed) { result.timed = true; result.title += `, ${result.found[0].seconds.toFixed(1)} s`; }
  render();
}

async function detect(files) {
  for (const file of files) {
    const result = addResult(file.name, file);
    for (const model of chosen()) {
      say(`${file.name}: ${model} is listening`);
      await collect(result, () => source.detect(model, file, TIMELINE_SECONDS, say));
    }
    const first = result.found.find((one) => !one.error);
    say(first ? `${file.name}: ${judge(first).word}` : `${file.name}: ${result.found[0]?.error ?? "choose a model first"}`, !first);
  }
}

async function compare(file) {
  if (!enrolled.length) { say("enrol a recording of the speaker first", true); return; }
  const result = addResult(`${file.name} against ${enrolled.map((one) => one.name).join(", ")}`, file), model = $("verify-model").value;
  say(`${file.name}: ${model} is listening`);
  await collect(result, () => source.verify(model, file, enrolled, say));
  const [found] = result.found;
  say(found.error ?? `${file.name}: ${named(found)[0]}`, "error" in found);
}

function enrol(files) {
  enrolled.push(...files);
  $("enrolled").textContent = enrolled.map((one) => one.name).join(", ") || "none yet";
  $("other").hidden = !enrolled.length;
}

const microphone = () => navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false, autoGainControl: false } });

function recorder(button, take) {
  let active = null;
  const name = button.textContent;
  button.addEventListener("click", async () => {
    if (active) { active.stop(); return; }
    try {
      const source = await microphone(), parts = [];
      active = new MediaRecorder(source);
      active.ondataavailable = (event) => parts.push(event.data);
      active.onstop = () => {
        source.getTracks().forEach((track) => track.stop());
        const file = new File(parts, `recorded ${new Date().toLocaleTimeString()}`, { type: active.mimeType });
        active = null;
        button.textContent = name;
        button.setAttribute("aria-pressed", "false");
        take([file]);
      };
      active.start();
      button.textContent = "Stop";
      button.setAttribute("aria-pressed", "true");
      say("recording");
    } catch (error) { say(`the microphone cannot be used (${error.message})`, true); }
  });
}

function showLive(found, past) {
  const { word, sign, kind, doubt } = judge(found);
  const last = found.window_llr === null ? "silent" : `LLR ${signed(found.window_llr)}`;
  const text = `${sign} ${word}${found.alarm ? ": ALARM" : ""}`;
  if ($("live-result").firstChild?.textContent !== text) $("live-result").replaceChildren(make("p", { className: `word ${found.alarm ? "fake" : kind}` }, text));
  const points = past.map((one, place) => `${(200 * place / (CHART - 1)).toFixed(1)},${(20 - 2 * Math.max(-FULL, Math.min(FULL, one.window_llr ?? 0))).toFixed(1)}`);
  $("live-chart").replaceChildren(make("p", {}, `${found.seconds.toFixed(0)} s; LLR of all ${signed(found.llr)}; of the last window ${last}${doubt ? `; ${doubt}` : ""}`),
    draw("svg", { viewBox: "0 0 200 40", preserveAspectRatio: "none", role: "img", "aria-label": "LLR of the last window over time, from −10 to +10" },
      draw("line", { x1: 0, x2: 200, y1: 20, y2: 20, class: "axis" }), draw("polyline", { points: points.join(" "), class: "curve" })));
}

function listener(button) {
  let stop = null;
  button.addEventListener("click", async () => {
    if (stop) { stop(); return; }
    try {
      const tracks = await microphone(), context = new AudioContext({ sampleRate: source.rate }), past = [];
      await context.audioWorklet.addModule("tap.js");
      const stream = source.open($("live-model").value, context.sampleRate, (found) => {
        past.push(found);
        if (past.length > CHART) past.shift();
        showLive(found, past);
      }, (line) => { if (stop) stop(); if (line) say(line, true); });
      const tap = new AudioWorkletNode(context, "tap");
      let waiting = [];
      tap.port.onmessage = ({ data }) => {
        waiting.push(...data);
        if (waiting.length < context.sampleRate / 10) return;
        stream.send(new Float32Array(waiting));
        waiting = [];
      };
      stop = () => {
        stop = null;
        tracks.getTracks().forEach((track) => track.stop());
        context.close();
        stream.end();
        button.textContent = "Listen to the microphone";
        button.setAttribute("aria-pressed", "false");
      };
      context.createMediaStreamSource(tracks).connect(tap);
      button.textContent = "Stop listening";
      button.setAttribute("aria-pressed", "true");
    } catch (error) { say(`the microphone cannot be used (${error.message})`, true); }
  });
}

async function begin() {
  try {
    about = await source.models(say);
  } catch (error) {
    if (error.locked) { $("entry").hidden = false; $("token").focus(); }
    say(error.message, true);
    return;
  }
  $("entry").hidden = true;
  $("programs").hidden = !source.programs;
  const of = (task) => about.models.filter((one) => one.task === task), detectors = of("anti-spoofing"), verifiers = of("speaker-verification");
  $("privacy").textContent = source.privacy(about);
  $("most").textContent = `${about.limits.seconds / 60} minutes, ${about.limits.megabytes} MB`;
  $("models").replaceChildren(...detectors.map((one) => make("label", {}, make("input", { type: "checkbox", value: one.name, checked: true }),
    ` ${one.name} (${one.weights}, ${one.megabytes.toFixed(1)} MB${one.calibrated ? "" : ", not calibrated"})`)));
  const options = (models) => models.map((one) => make("option", { value: one.name }, one.name));
  $("live-model").replaceChildren(...options(detectors));
  $("verify-model").replaceChildren(...options(verifiers));
  $("detect").hidden = $("live").hidden = !detectors.length;
  $("verify").hidden = !verifiers.length;
  document.title = $("title").textContent = detectors.length ? "Real or fake speech?" : "The same speaker?";
  if (!navigator.mediaDevices) {
    ["record", "record-enrol", "record-test", "listen"].forEach((id) => { $(id).disabled = true; $(id).title = "browsers give the microphone to https and localhost alone"; });
  }
  say("");
  render();
}

const take = (input, use) => input.addEventListener("change", () => { const files = [...input.files]; input.value = ""; if (files.length) use(files); });
const one = (files) => compare(files[0]);
take($("files"), detect); take($("enrol"), enrol); take($("test"), one);
recorder($("record"), detect); recorder($("record-enrol"), enrol); recorder($("record-test"), one);
listener($("listen"));
$("other").addEventListener("click", () => { enrolled.length = 0; enrol([]); });
$("prior").addEventListener("input", render);
$("clear").addEventListener("click", () => { results.splice(0).forEach((old) => URL.revokeObjectURL(old.url)); render(); say("forgotten"); });
$("entry").addEventListener("submit", (event) => { event.preventDefault(); source.admit($("token").value.trim()); begin(); });
for (const kind of ["dragover", "dragleave", "drop"]) {
  $("drop").addEventListener(kind, (event) => { event.preventDefault(); $("drop").classList.toggle("over", kind === "dragover"); if (kind === "drop") detect([...event.dataTransfer.files]); });
}
begin();
