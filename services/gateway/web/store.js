// ---- conversations, kept in this browser
// {id, name, named, updated, from, messages}: `from` is the first message that is still sent. A
// message: {role, content}; an answer also has {seed, digest, reason, params, system, from, prefix}: how it can
// be had again (`prefix`: so many characters of it were there before it was continued).
const MAX_CHATS = 200;
const store = {
  chats: [],
  load() {
    const kept = readStored("tutti.chats", []);
    this.chats = (Array.isArray(kept) ? kept : []).filter(c => c && typeof c.id === "string" && Array.isArray(c.messages));
  },
  // What does not fit goes, the oldest first.
  save() {
    this.chats.sort((a, b) => b.updated - a.updated);
    this.chats.length = Math.min(this.chats.length, MAX_CHATS);
    for (let tries = this.chats.length; tries >= 0; tries--) {
      try { localStorage.setItem("tutti.chats", JSON.stringify(this.chats.filter(c => c.messages.length))); return; } catch {}
      if (this.chats.length < 2) return;
      this.chats.pop();
    }
  },
  touch(chat) {
    chat.updated = Date.now();
    const first = chat.messages.find(m => m.role === "user");
    if (!chat.named) chat.name = first ? first.content.trim().replace(/\s+/g, " ").slice(0, 60) : "New chat";
    if (!this.chats.includes(chat)) this.chats.push(chat);
    this.save();
  },
  remove(chat) { this.chats = this.chats.filter(c => c !== chat); this.save(); },
  find(words) {
    const all = words.toLowerCase().split(/\s+/).filter(Boolean);
    return this.chats.filter(c => {
      const text = (c.name + "\n" + c.messages.map(m => m.content).join("\n")).toLowerCase();
      return all.every(w => text.includes(w));
    });
  },
};
const newChat = () => ({id: crypto.randomUUID ? crypto.randomUUID() : randomSeed(), name: "New chat", named: false, updated: Date.now(), from: 0, messages: []});
store.load();

const fileName = chat => chat.name.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "chat";
function exportMarkdown(chat) {
  const parts = chat.messages.map(m => (m.role === "user" ? "## You\n\n" : "## Tutti\n\n") + m.content + (m.digest ? `\n\n_seed ${m.seed}, digest ${m.digest}_` : ""));
  download(fileName(chat) + ".md", "text/markdown", "# " + chat.name + "\n\n" + parts.join("\n\n") + "\n");
}
const exportJson = chat => download(fileName(chat) + ".json", "application/json", JSON.stringify({name: chat.name, model: modelName(), messages: chat.messages}, null, 2) + "\n");
