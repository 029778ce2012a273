"use strict";
// ---- nodes
const $ = id => document.getElementById(id);
const el = (tag, cls, text) => {
  const e = document.createElement(tag);
  if (cls) e.className = cls;
  if (text !== undefined) e.textContent = text;
  return e;
};
const ICONS = {
  copy: "M9 9h11v11H9zM5 15H4V4h11v1",
  done: "M5 13l4 4L19 7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  again: "M20 11a8 8 0 1 0-2 6M20 5v6h-6",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13M10 11v5M14 11v5",
  save: "M12 4v11M7 11l5 5 5-5M4 20h16",
  forward: "M5 5l7 7-7 7M13 5l7 7-7 7",
};
function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), path = document.createElementNS(svg.namespaceURI, "path");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  path.setAttribute("d", ICONS[name]);
  svg.append(path);
  return svg;
}
// A small button with an icon; `text` beside it is optional.
function iconButton(name, title, onclick, text) {
  const b = el("button", "tool");
  b.type = "button";
  b.title = title;
  b.setAttribute("aria-label", title);
  b.append(icon(name));
  if (text) b.append(" " + text);
  b.onclick = onclick;
  return b;
}
// Without HTTPS only pages of this very machine may use the clipboard's own interface.
async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) return navigator.clipboard.writeText(text);
  const area = el("textarea");
  area.value = text;
  area.style.position = "fixed";
  area.style.opacity = 0;
  document.body.append(area);
  area.select();
  const ok = document.execCommand("copy");
  area.remove();
  if (!ok) throw new Error("the browser does not allow copying here");
}
function copyButton(textOf) {
  const b = iconButton("copy", "Copy", async () => {
    try {
      await copyText(textOf());
      b.replaceChildren(icon("done"));
    } catch (e) { b.title = e.message; }
    setTimeout(() => b.replaceChildren(icon("copy")), 1500);
  });
  return b;
}
function download(name, type, text) {
  const a = el("a");
  a.href = URL.createObjectURL(new Blob([text], {type}));
  a.download = name;
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 60000);
}
const readStored = (key, otherwise) => { try { return JSON.parse(localStorage.getItem(key)) ?? otherwise; } catch { return otherwise; } };
