// ---- the conversation
let chat = newChat();
let running = null;  // the AbortController of the answer that comes
const log = $("log");
const atEnd = () => log.scrollHeight - log.scrollTop - log.clientHeight < 80;
const toEnd = () => { log.scrollTop = log.scrollHeight; };
log.addEventListener("scroll", () => { pop.hidden = true; });

function showError(e, turn, actions) {
  const box = el("div", "error", e.message);
  if (e.detail) box.append(el("small", "", e.detail));
  box.setAttribute("role", "alert");
  if (actions && actions.length) { const row = el("div", "actions"); row.append(...actions); box.append(row); }
  turn.append(box);
}
const textButton = (text, onclick) => { const b = el("button", "plain", text); b.type = "button"; b.onclick = onclick; return b; };

// ---- turns on the page
function userTurn(message) {
  const turn = el("div", "turn user"), tools = el("div", "tools");
  turn.append(el("div", "text", message.content), tools);
  tools.append(iconButton("edit", "Edit and send again", () => editTurn(turn, message)), copyButton(() => message.content));
  turn.message = message;
  return turn;
}
function editTurn(turn, message) {
  if (running) return;
  const box = el("form", "edit"), area = el("textarea"), row = el("div", "actions"), send = el("button", "primary", "Send");
  area.value = message.content;
  area.setAttribute("aria-label", "Edited message");
  send.type = "submit";
  const close = () => { box.replaceWith(...old); };
  row.append(textButton("Cancel", close), send);
  box.append(area, row);
  box.onsubmit = e => {
    e.preventDefault();
    const text = area.value.trim();
    if (!text || running) return;
    chat.messages.length = chat.messages.indexOf(message);
    chat.from = Math.min(chat.from, chat.messages.length);
    drawChat();
    ask(text);
  };
  area.onkeydown = e => {
    if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); box.requestSubmit(); }
    if (e.key === "Escape") { e.stopPropagation(); close(); }
  };
  const old = [...turn.childNodes];
  turn.replaceChildren(box);
  area.style.height = Math.min(area.scrollHeight + 4, innerHeight * .4) + "px";
  area.focus();
}
// The answer's box is filled by drawAnswer; its tools come when it has ended.
function assistantTurn(message) {
  const turn = el("div", "turn assistant");
  turn.box = el("div", "text markdown");
  turn.facts = el("div", "facts");
  turn.tools = el("div", "tools");
  turn.append(turn.box, turn.facts, turn.tools);
  turn.message = message;
  return turn;
}
function drawAnswer(turn, message, answer) {
  turn.box.replaceChildren(renderMarkdown(message.content, tokenLeaves(answer, message.prefix || 0)));
}
function finishTurn(turn, message, answer) {
  drawAnswer(turn, message, answer);
  showFacts(chat, message, answer, turn.facts);
  turn.tools.replaceChildren(copyButton(() => message.content));
  if (message === chat.messages.at(-1)) {
    turn.tools.append(iconButton("again", "Regenerate: another answer, with another seed", regenerate));
    if (message.reason === "length") turn.tools.append(iconButton("forward", "Continue this answer", continueAnswer, "Continue"));
  }
}
function drawChat() {
  $("turns").replaceChildren();
  if (!chat.messages.length) $("turns").append(emptyTurn());
  chat.messages.forEach((m, i) => {
    if (i === chat.from && i > 0) $("turns").append(el("div", "divider", "What stands above is no longer sent: it would not fit."));
    const turn = m.role === "user" ? userTurn(m) : assistantTurn(m);
    turn.classList.toggle("past", i < chat.from);
    $("turns").append(turn);
    if (m.role !== "user") finishTurn(turn, m, null);
  });
  toEnd();
}
function emptyTurn() {
  const empty = el("div"), ideas = el("div", "ideas");
  empty.id = "empty";
  empty.append(el("h2", "", "The same seed, the same answer."),
    el("div", "", "Every reply carries a seed and a digest of the model's raw logits. Replay it, and compare bit for bit."), ideas);
  for (const idea of ["Why is the sky blue?", "Write a haiku about an orchestra", "Explain gravity to a child"]) {
    ideas.append(textButton(idea, () => ask(idea)));
  }
  return empty;
}

// ---- asking
function ask(text) {
  if (chat.messages.at(-1)?.role === "user") {  // it got no answer
    chat.messages.pop();
    drawChat();
  }
  if (!chat.messages.length) $("turns").replaceChildren();
  const message = {role: "user", content: text};
  chat.messages.push(message);
  $("turns").append(userTurn(message));
  return answerLast();
}
// Asks for an answer to what the chat ends in. `seed`: instead of that of the panel, or a random one.
function answerLast(seed) {
  const message = {role: "assistant", content: "", model: modelName(), from: chat.from, params: chosenParams()};
  if ($("stop").value) message.params.stop = [$("stop").value];
  if ($("system").value.trim()) message.system = $("system").value;
  const turn = assistantTurn(message);
  chat.messages.push(message);
  $("turns").append(turn);
  toEnd();
  return stream(turn, message, seed);
}
async function stream(turn, message, seed) {
  const abort = running = new AbortController(), before = message.content;
  setBusy(true);
  // What goes on from the last answer is for the last answer alone.
  for (const t of document.querySelectorAll(".turn.assistant .tools")) t.replaceChildren(...[...t.children].slice(0, 1));
  turn.box.classList.add("caret");
  turn.querySelectorAll(".error").forEach(e => e.remove());
  let answer = null, next = 0, failed = null;
  try {
    message.seed = seed || fixedSeed() || randomSeed();
    answer = await run(requestOf(chat, chat.messages.indexOf(message)), abort.signal, a => {
      answer = a;
      message.content = before + a.text;
      const now = performance.now();
      if (now < next) return;
      const follow = atEnd();
      drawAnswer(turn, message, a);
      showFacts(chat, message, a, turn.facts);
      if (follow) toEnd();
      next = performance.now() + 50 + 4 * (performance.now() - now);  // drawing takes a fifth of the time at most
    });
  } catch (e) {
    if (e.name !== "AbortError") failed = e;
  }
  turn.box.classList.remove("caret");
  running = null;
  setBusy(false);
  if (answer) {
    message.content = before + answer.text;
    message.digest = answer.digest;
    message.reason = answer.reason;
    finishTurn(turn, message, answer);
    if (abort.signal.aborted) turn.facts.append(el("span", "chip", "stopped"));
    showContext(answer.usage);
  } else if (!before) {
    chat.messages.pop();
    turn.box.remove();
    turn.tools.remove();
    if (!failed) takeBack();
  } else {
    finishTurn(turn, message, null);
  }
  if (failed) showError(failed, turn, waysOn(failed, turn));
  if (answer || chat.messages.length > 1) { store.touch(chat); drawChats(); }
  if (atEnd()) toEnd();
}
// Stopped before anything came: the message goes back to where it was typed.
function takeBack() {
  const message = chat.messages.pop();
  if (!$("input").value) $("input").value = message.content;
  grow();
  drawChat();
}
// What a person may do about an error, beside trying again.
function waysOn(e, turn) {
  const again = () => { turn.remove(); if (chat.messages.at(-1)?.role === "user") answerLast(); };
  if (e.code !== "context_length_exceeded") return [textButton("Try again", again)];
  const ways = [textButton("New chat", () => openChat(newChat()))];
  if (nextFrom() >= 0) ways.unshift(textButton("Leave out the oldest messages and send again", () => { chat.from = nextFrom(); drawChat(); answerLast(); }));
  return ways;
}
// Where the sent part may begin instead: after about half of what is sent, at a user's message; -1:
// nothing can be left out.
function nextFrom() {
  const last = chat.messages.length - 1;
  for (let i = chat.from + Math.max(1, Math.floor((last - chat.from) / 2)); i <= last; i++) {
    if (chat.messages[i].role === "user") return i;
  }
  return -1;
}
function regenerate() {
  if (running) return;
  chat.messages.pop();
  $("turns").lastElementChild.remove();
  answerLast(randomSeed());
}
function continueAnswer() {
  if (running) return;
  const message = chat.messages.at(-1), turn = $("turns").lastElementChild;
  message.prefix = message.content.length;
  message.digest = message.reason = undefined;
  message.params = chosenParams();
  stream(turn, message);
}
function showContext(usage) {
  const total = contextTokens();
  if (!usage || !total) return;
  const used = usage.prompt_tokens + usage.completion_tokens;
  $("context").textContent = `${used.toLocaleString()} of ${total.toLocaleString()} tokens of context used`;
  $("context").classList.toggle("full", used > total * .9);
}

// ---- the input
function setBusy(busy) {
  $("send").textContent = busy ? "Stop" : "Send";
  $("send").classList.toggle("stop", busy);
  if (!busy && !narrow()) $("input").focus();
}
const grow = () => { const i = $("input"); i.style.height = "auto"; i.style.height = i.scrollHeight + "px"; };
$("input").addEventListener("input", grow);
$("input").addEventListener("keydown", e => { if (e.key === "Enter" && !e.shiftKey && !e.isComposing) { e.preventDefault(); if (!running) $("form").requestSubmit(); } });
$("form").addEventListener("submit", e => {
  e.preventDefault();
  if (running) { running.abort(); return; }
  const text = $("input").value.trim();
  if (!text) return;
  $("input").value = "";
  grow();
  ask(text);
});
document.addEventListener("keydown", e => {
  if (e.key !== "Escape") return;
  if (running) running.abort();
  else if (narrow()) { drawer("side", false); drawer("chats", false); }
});
