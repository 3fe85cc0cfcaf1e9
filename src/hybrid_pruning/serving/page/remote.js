// Answers of the server that the page came from.
let token = "";

export const programs = true;  // may ask too: there is a description for them
export const rate = undefined;  // of a stream: any
export const privacy = (about) => about.kept ? "Recordings go to this server, which KEEPS them." : "Recordings go to this server, which keeps none.";
export const admit = (given) => { token = given; };
export const models = () => ask("v1/models");
export const detect = (model, file, seconds) => ask(`v1/detect?timeline=${seconds}&model=${encodeURIComponent(model)}`, [["file", file]]);
export const verify = (model, test, enrol) => ask(`v1/verify?model=${encodeURIComponent(model)}`, [["test", test], ...enrol.map((one) => ["enrol", one])]);

async function ask(path, files) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {}, body = files && new FormData();
  files?.forEach(([field, file]) => body.append(field, file));
  let answer;
  try {
    answer = await fetch(path, { method: body ? "POST" : "GET", body, headers });
  } catch (error) {
    throw new Error(`the server cannot be reached (${error.message})`);
  }
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error), { locked: answer.status === 401 });
  return found;
}

// A stream of samples at a rate: `tell` gets each verdict, `end` a line where it did not end well.
export function open(model, rate, tell, end) {
  const query = `model=${encodeURIComponent(model)}&rate=${rate}&samples=f32`;
  const socket = new WebSocket(`${location.href.replace(/^http/, "ws").replace(/[^/]*$/, "")}v1/stream?${query}`, token ? ["bearer", token] : []);
  let line = "";
  socket.onmessage = ({ data }) => {
    const found = JSON.parse(data);
    if (found.error) line = found.error; else tell(found);
  };
  socket.onclose = ({ code }) => end(line || (code === 1000 ? "" : "the stream was closed by the server"));
  const opened = new Promise((resolve) => { socket.onopen = resolve; });
  const send = (data) => opened.then(() => { if (socket.readyState === WebSocket.OPEN) socket.send(data); });
  return { send, end: () => send("end") };
}
