// ---- the API
const headers = () => { const h = {"Content-Type": "application/json"}; if ($("key").value) h.Authorization = "Bearer " + $("key").value; return h; };
class ApiError extends Error {
  constructor(e, status) {
    super(e.message || "request failed");
    this.detail = [status, e.code, e.param].filter(Boolean).join(" · ");
    this.status = status;
    this.code = e.code;
  }
}
async function failure(r) {
  let e = {};
  try { e = (await r.json()).error || {}; } catch {}
  if (r.status === 401) { $("key-label").hidden = false; drawer("side", true); }
  return new ApiError(e, r.status);
}
// The server-sent events of a body, as parsed JSON.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    rest += value;
    let end;
    while ((end = rest.indexOf("\n\n")) >= 0) {
      const block = rest.slice(0, end);
      rest = rest.slice(end + 2);
      const data = block.split("\n").filter(l => l.startsWith("data:")).map(l => l.slice(5).trim()).join("\n");
      if (data && data !== "[DONE]") yield JSON.parse(data);
    }
  }
}
let models = [];
async function loadModels() {
  try {
    const r = await fetch("v1/models", {headers: headers()});
    if (!r.ok) throw await failure(r);
    models = (await r.json()).data;
    const box = $("model");
    box.textContent = "";
    if (!models.length) { box.textContent = "no model is served yet"; setTimeout(loadModels, 2000); return; }
    if (models.length > 1) {
      const select = el("select");
      select.id = "model-select";
      select.setAttribute("aria-label", "Model");
      for (const m of models) select.append(new Option(m.id, m.id));
      box.append(select);
    } else {
      box.textContent = models[0].id + " · " + models[0].max_model_len.toLocaleString() + " tokens of context";
    }
    box.title = models.map(m => m.id + "  fingerprint " + m.fingerprint).join("\n");
  } catch (e) {
    $("model").textContent = "cannot reach the model: " + e.message;
    setTimeout(loadModels, 3000);
  }
}
const modelName = () => ($("model-select") ? $("model-select").value : models.length ? models[0].id : undefined);
const contextTokens = () => (models.find(m => m.id === modelName()) || {}).max_model_len || 0;

// What a stream brought: text, tokens with their alternatives, seed, digest, speed.
class Answer {
  constructor(start) {
    this.start = start;
    this.text = "";
    this.tokens = [];  // {text, parts, begin, end}: pieces of whole characters, and their places in the text
    this.placed = 0;   // of them have a place by now
    this.end = 0;      // of the last one
    this.pending = [];
    this.decoder = new TextDecoder();
    this.first = this.last = 0;
  }
  add(chunk) {
    if (chunk.error) throw new ApiError(chunk.error);
    if (chunk.usage) this.usage = chunk.usage;
    for (const c of chunk.choices || []) {
      const content = c.delta && c.delta.content;
      if (content) this.text += content;
      for (const t of (c.logprobs && c.logprobs.content) || []) {
        if (!this.first) this.first = performance.now();
        this.last = performance.now();
        this.pending.push(t);
        const text = this.decoder.decode(new Uint8Array(t.bytes || []), {stream: true});
        if (!text) continue;
        this.tokens.push({text, parts: this.pending});
        this.pending = [];
      }
      if (c.finish_reason) { this.reason = c.finish_reason; this.digest = c.digest; }
    }
  }
  // Finds the places of tokens in the text so far. The text may lag behind (a stop text may follow),
  // and lacks control tokens: these have no place.
  place() {
    for (; this.placed < this.tokens.length; this.placed++) {
      const t = this.tokens[this.placed], here = this.text.startsWith(t.text, this.end);
      if (!here && t.text.startsWith(this.text.slice(this.end))) return;
      t.begin = this.end;
      t.end = this.end += here ? t.text.length : 0;
    }
  }
  get arrived() { return this.tokens.reduce((n, t) => n + t.parts.length, 0); }
  get count() { return this.usage ? this.usage.completion_tokens : this.arrived; }
  get speed() { const n = this.arrived - 1; return n > 0 && this.last > this.first ? n / (this.last - this.first) * 1000 : 0; }
  get ttft() { return this.first ? this.first - this.start : 0; }
}
// request.seed is decimal text and is sent as the number that it is.
async function run(request, signal, onChunk) {
  const answer = new Answer(performance.now());
  const body = JSON.stringify({...request, stream: true, stream_options: {include_usage: true}, logprobs: true, top_logprobs: 5});
  const r = await fetch("v1/chat/completions", {method: "POST", headers: headers(), body: body.replace(/"seed":"(-?\d+)"/, '"seed":$1'), signal});
  if (!r.ok) throw await failure(r);
  for await (const chunk of events(r.body)) { answer.add(chunk); if (onChunk) onChunk(answer); }
  return answer;
}
