// ---- the list of conversations
function openChat(next) {
  if (running) running.abort();
  chat = next;
  $("context").textContent = "";
  drawChat();
  drawChats();
  if (narrow()) drawer("chats", false);
  $("input").focus();
}
function drawChats() {
  const list = $("chats");
  list.replaceChildren();
  const found = store.find($("search").value);
  for (const c of found) list.append(chatRow(c));
  if (!found.length) list.append(el("p", "none", $("search").value ? "No conversation has these words." : "Conversations are kept here, in this browser alone."));
}
function chatRow(c) {
  const row = el("div", "chat-row" + (c === chat ? " current" : "")), open = el("button", "name", c.name);
  open.type = "button";
  open.title = c.name;
  open.onclick = () => openChat(c);
  row.append(open,
    iconButton("edit", "Rename", () => rename(c, row)),
    iconButton("save", "Export", () => exportMenu(c, row)),
    iconButton("trash", "Delete", () => confirmIn(row, "Delete?", () => { store.remove(c); if (c === chat) openChat(newChat()); else drawChats(); })));
  return row;
}
function rename(c, row) {
  const input = el("input", "name");
  input.value = c.name;
  input.setAttribute("aria-label", "Name of the conversation");
  const done = keep => {
    if (keep && input.value.trim()) { c.name = input.value.trim().slice(0, 100); c.named = true; store.save(); }
    input.onblur = null;
    drawChats();
  };
  input.onkeydown = e => { if (e.key === "Enter") done(true); if (e.key === "Escape") { e.stopPropagation(); done(false); } };
  input.onblur = () => done(true);
  row.replaceChildren(input);
  input.select();
}
function confirmIn(row, question, yes) {
  const confirm = textButton(question, yes), keep = textButton("Keep", drawChats);
  row.replaceChildren(confirm, keep);
  row.classList.add("asks");
  confirm.focus();
}
function exportMenu(c, row) {
  const then = f => () => { f(c); drawChats(); };
  row.replaceChildren(textButton("Markdown", then(exportMarkdown)), textButton("JSON", then(exportJson)), textButton("Cancel", drawChats));
  row.classList.add("asks");
}
$("search").oninput = drawChats;
$("new").onclick = () => openChat(newChat());
// Another tab changed the list; the chat that is open here stays as it is.
addEventListener("storage", e => {
  if (e.key !== "tutti.chats") return;
  store.load();
  const same = store.chats.findIndex(c => c.id === chat.id);
  if (same >= 0) store.chats[same] = chat;
  drawChats();
});

// ---- begin
// A reload comes back to the conversation that was open.
const reopened = store.chats.find(c => c.id === sessionStorage.getItem("tutti.open"));
addEventListener("pagehide", () => { try { sessionStorage.setItem("tutti.open", chat.id); } catch {} });
openChat(reopened || newChat());
loadModels();
