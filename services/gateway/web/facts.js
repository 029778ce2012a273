// ---- what stands below an answer
function chip(label, value, mono) {
  const c = el("span", "chip" + (mono ? " mono" : ""));
  c.append(label + " ", el("b", "", value));
  return c;
}
// The request that gave answer number `index` of a chat.
function requestOf(chat, index) {
  const m = chat.messages[index];
  const sent = chat.messages.slice(m.from || 0, index).map(({role, content}) => ({role, content}));
  if (m.system) sent.unshift({role: "system", content: m.system});
  const request = {model: m.model, messages: sent, ...m.params, seed: m.seed};
  if (m.prefix) {
    sent.push({role: "assistant", content: m.content.slice(0, m.prefix)});
    Object.assign(request, {continue_final_message: true, add_generation_prompt: false});
  }
  return request;
}
function replayButton(chat, message, box) {
  const replay = el("button", "chip", "↻ Replay");
  replay.type = "button";
  replay.title = "Ask again with the same seed and compare the digests";
  replay.onclick = async () => {
    replay.disabled = true;
    box.querySelectorAll(".verdict").forEach(v => v.remove());
    const verdict = el("span", "chip verdict", "replaying…");
    box.append(verdict);
    try {
      const again = await run(requestOf(chat, chat.messages.indexOf(message)), undefined, a => { verdict.textContent = "replaying… " + a.count + " tokens"; });
      const same = again.digest === message.digest && again.text === message.content.slice(message.prefix || 0);
      verdict.className = "chip verdict " + (same ? "ok" : "bad");
      verdict.textContent = same ? "✓ same digest, bit for bit" : "✗ digest " + again.digest;
    } catch (e) {
      verdict.className = "chip verdict bad";
      verdict.textContent = e.message;
    }
    replay.disabled = false;
  };
  return replay;
}
// `answer`: what the stream brought; null for a message of an earlier visit.
function showFacts(chat, message, answer, box) {
  box.textContent = "";
  if (answer) {
    if (answer.speed) box.append(chip("speed", answer.speed.toFixed(1) + " tok/s"));
    if (answer.ttft) box.append(chip("first token", Math.round(answer.ttft) + " ms"));
    box.append(chip("tokens", (answer.usage ? answer.usage.prompt_tokens + " + " : "") + answer.count));
  }
  if (message.reason === "length") box.append(chip("ended by", "length"));
  if (!message.digest) return;
  const seed = el("button", "chip mono");
  seed.type = "button";
  seed.title = "Use this seed for what comes next";
  seed.append("seed ", el("b", "", message.seed));
  seed.onclick = () => { $("seed").value = message.seed; seedHint(); drawer("side", true); };
  box.append(seed, chip("digest", message.digest, true), replayButton(chat, message, box));
}
