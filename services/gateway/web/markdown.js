// ---- Markdown
// A small renderer of what models write: headings, paragraphs, lists, quotes, fenced code, tables,
// rules; inline code, emphasis, strikethrough, links. It builds nodes and text nodes alone, so that
// no text of a model ever becomes markup. It knows for each character where in the source it
// stood: `leaf(text, at)` makes the node of a piece of source text, such as spans of tokens.

// Lines of the source without the marks of the blocks around them. Each: {text, at}, `at` being the
// place of its first character in the source.
const sourceLines = source => {
  const lines = [];
  let at = 0;
  for (const text of source.split("\n")) {
    lines.push({text, at});
    at += text.length + 1;
  }
  return lines;
};
const cut = (line, n) => ({text: line.text.slice(n), at: line.at + n});
const indentOf = text => text.match(/^ */)[0].length;
const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$/;
const RULE = /^ {0,3}([-*_])(\s*\1){2,}\s*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])( +|$)/;
const DELIMITER = /^\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$/;

function renderMarkdown(source, leaf) {
  const out = document.createDocumentFragment();
  renderBlocks(sourceLines(source), out, leaf, 0);
  return out;
}

function startsBlock(text) {
  return FENCE.test(text) || HEADING.test(text) || RULE.test(text) || QUOTE.test(text) || ITEM.test(text);
}

const MAX_DEPTH = 12;
function renderBlocks(lines, parent, leaf, depth) {
  let i = 0;
  while (i < lines.length) {
    const text = lines[i].text;
    let m;
    if (!text.trim()) {
      i++;
    } else if ((m = text.match(FENCE))) {
      i = renderFence(lines, i, m, parent, leaf);
    } else if ((m = text.match(HEADING))) {
      const h = el("h" + m[1].length);
      renderInline([cut(lines[i], text.indexOf(m[2], m[1].length))].map(l => ({...l, text: m[2]})), h, leaf);
      parent.append(h);
      i++;
    } else if (RULE.test(text)) {
      parent.append(el("hr"));
      i++;
    } else if (QUOTE.test(text) && depth < MAX_DEPTH) {
      const inner = [];
      for (; i < lines.length && QUOTE.test(lines[i].text); i++) inner.push(cut(lines[i], lines[i].text.match(QUOTE)[0].length));
      const quote = el("blockquote");
      renderBlocks(inner, quote, leaf, depth + 1);
      parent.append(quote);
    } else if (ITEM.test(text) && depth < MAX_DEPTH) {
      i = renderList(lines, i, parent, leaf, depth);
    } else if (i + 1 < lines.length && text.includes("|") && DELIMITER.test(lines[i + 1].text) && lines[i + 1].text.includes("-")) {
      i = renderTable(lines, i, parent, leaf);
    } else {
      const own = [lines[i++]];
      while (i < lines.length && lines[i].text.trim() && !startsBlock(lines[i].text)) own.push(lines[i++]);
      const p = el("p");
      renderInline(own.map(l => cut(l, indentOf(l.text))), p, leaf);
      parent.append(p);
    }
  }
}

// A fence that is not closed yet holds all that follows: so an answer looks while it comes.
function renderFence(lines, i, m, parent, leaf) {
  const [, fence, info] = m;
  const indent = indentOf(lines[i].text);
  const block = el("div", "code"), head = el("div", "code-head"), pre = el("pre"), code = el("code");
  const body = [];
  for (i++; i < lines.length; i++) {
    const close = lines[i].text.match(/^ {0,3}(`{3,}|~{3,})\s*$/);
    if (close && close[1][0] === fence[0] && close[1].length >= fence.length) { i++; break; }
    body.push(cut(lines[i], Math.min(indent, indentOf(lines[i].text))));
  }
  body.forEach((l, k) => {
    code.append(leaf(l.text, l.at));
    if (k + 1 < body.length) code.append("\n");
  });
  head.append(el("span", "", info.trim().split(/\s/)[0]), copyButton(() => body.map(l => l.text).join("\n")));
  pre.append(code);
  block.append(head, pre);
  parent.append(block);
  return i;
}

function renderList(lines, i, parent, leaf, depth) {
  const first = lines[i].text.match(ITEM);
  const ordered = /\d/.test(first[2]), mark = first[2].slice(-1);
  const list = el(ordered ? "ol" : "ul");
  if (ordered) list.start = parseInt(first[2], 10);
  while (i < lines.length) {
    const m = lines[i].text.match(ITEM);
    if (!m || /\d/.test(m[2]) !== ordered || m[2].slice(-1) !== mark || RULE.test(lines[i].text)) break;
    const width = m[0].length + (m[3] ? 0 : 1);
    const inner = [cut(lines[i++], m[0].length)];
    // What is indented to the item's text, or follows without a blank line, belongs to it.
    while (i < lines.length) {
      const text = lines[i].text, blank = !text.trim(), indent = indentOf(text);
      if (blank) {
        let next = i;
        while (next < lines.length && !lines[next].text.trim()) next++;
        if (next >= lines.length || indentOf(lines[next].text) < Math.min(width, 2)) break;
      } else if (indent < Math.min(width, 2) && startsBlock(text)) {
        break;
      }
      inner.push(cut(lines[i], Math.min(width, indent)));
      i++;
    }
    const item = el("li");
    const task = inner[0].text.match(/^\[([ xX])\] /);
    if (task) {
      const box = el("input");
      Object.assign(box, {type: "checkbox", disabled: true, checked: task[1] !== " "});
      item.className = "task";
      item.append(box);
      inner[0] = cut(inner[0], 4);
    }
    renderBlocks(inner, item, leaf, depth + 1);
    list.append(item);
    while (i < lines.length && !lines[i].text.trim() && i + 1 < lines.length && ITEM.test(lines[i + 1].text)) i++;
  }
  parent.append(list);
  return i;
}

// Cells of a row with their places; "\|" and bars in code do not divide.
function cellsOf(line) {
  const cells = [];
  let begin = line.text.match(/^\s*\|?/)[0].length, code = false;
  const end = line.text.replace(/\s*\|?\s*$/, "").length;
  for (let k = begin; k <= end; k++) {
    const c = line.text[k];
    if (c === "\\") { k++; continue; }
    if (c === "`") code = !code;
    if (k < end && (c !== "|" || code)) continue;
    const raw = line.text.slice(begin, Math.min(k, end)), lead = raw.match(/^\s*/)[0].length;
    cells.push({text: raw.trim(), at: line.at + begin + lead});
    begin = k + 1;
  }
  return cells;
}
function renderTable(lines, i, parent, leaf) {
  const align = cellsOf(lines[i + 1]).map(c => (c.text.endsWith(":") ? (c.text.startsWith(":") ? "center" : "right") : ""));
  const table = el("table"), body = el("tbody"), head = el("thead");
  const row = (line, tag) => {
    const tr = el("tr");
    cellsOf(line).slice(0, align.length).forEach((cell, k) => {
      const td = el(tag);
      if (align[k]) td.style.textAlign = align[k];
      renderInline([cell], td, leaf);
      tr.append(td);
    });
    return tr;
  };
  head.append(row(lines[i], "th"));
  for (i += 2; i < lines.length && lines[i].text.includes("|") && lines[i].text.trim(); i++) body.append(row(lines[i], "td"));
  table.append(head, body);
  const scroll = el("div", "table");
  scroll.append(table);
  parent.append(scroll);
  return i;
}

// Only what a click may safely follow.
function safeUrl(text) {
  try {
    const url = new URL(text);
    return ["http:", "https:", "mailto:"].includes(url.protocol) ? url.href : null;
  } catch { return null; }
}

const INLINE = /\\([!-/:-@[-`{-~])|(`+)|(\*\*|__|~~|\*|_)|(!?\[)|<((?:https?:\/\/|mailto:)[^\s<>]+)>|(https?:\/\/[^\s<>"`]*[^\s<>"`.,;:!?)\]}'*_])/g;

// The lines joined, with the way back from each character to its place in the source.
function renderInline(lines, parent, leaf) {
  const text = lines.map(l => l.text).join("\n");
  const starts = [];
  let n = 0;
  for (const l of lines) { starts.push([n, l.at]); n += l.text.length + 1; }
  const emit = (from, to, into) => {
    for (let k = 0; k < starts.length && from < to; k++) {
      const next = k + 1 < starts.length ? starts[k + 1][0] : Infinity;
      if (from >= next) continue;
      const end = Math.min(to, next - 1);
      if (end > from) into.append(leaf(text.slice(from, end), starts[k][1] + from - starts[k][0]));
      if (to >= next) into.append(el("br"));
      from = next;
    }
  };
  inlineRange(text, 0, text.length, parent, emit, 0);
}

const isWord = c => c !== undefined && /[\p{L}\p{N}]/u.test(c);
// Marks and links longer than that are text: so no input takes more than linear time.
const MAX_SPAN = 2000;
// The end of an emphasis that `mark` at `at` begins: the place of the closing mark, or -1.
function closingMark(text, mark, at, end) {
  end = Math.min(end, at + MAX_SPAN);
  if (at + mark.length >= end || /\s/.test(text[at + mark.length])) return -1;
  if (mark[0] === "_" && isWord(text[at - 1])) return -1;
  if (mark === "*" && isWord(text[at - 1]) && /\d/.test(text[at + 1])) return -1;  // 2*3*4
  for (let k = at + mark.length; k < end; k++) {
    if (text[k] === "\\") { k++; continue; }
    if (text[k] === "`") {
      let ticks = 1;
      while (text[k + ticks] === "`") ticks++;
      const close = closingTicks(text, "`".repeat(ticks), k + ticks, end);
      k = (close > 0 ? close + ticks : k + ticks) - 1;
      continue;
    }
    if (!text.startsWith(mark, k) || /\s/.test(text[k - 1]) || k === at + mark.length) continue;
    if (mark.length === 1 && text[k + 1] === mark) { k++; continue; }  // a double one inside
    if (mark[0] === "_" && isWord(text[k + mark.length])) continue;
    return k;
  }
  return -1;
}

function inlineRange(text, from, end, parent, emit, depth) {
  let plain = from;
  INLINE.lastIndex = from;
  const flush = to => { if (to > plain) emit(plain, to, parent); };
  const nested = (node, a, b, next) => {
    if (depth < MAX_DEPTH) { const at = INLINE.lastIndex; inlineRange(text, a, b, node, emit, depth + 1); INLINE.lastIndex = at; } else emit(a, b, node);
    parent.append(node);
    plain = INLINE.lastIndex = next;
  };
  const anchor = url => Object.assign(el("a"), {href: url, target: "_blank", rel: "noopener noreferrer"});
  for (let m; (m = INLINE.exec(text)) && m.index < end;) {
    const at = m.index;
    if (m[1]) {
      flush(at);
      plain = at + 1;
    } else if (m[2]) {
      const close = closingTicks(text, m[2], at + m[2].length, end);
      if (close < 0) continue;
      flush(at);
      const code = el("code");
      emit(at + m[2].length, close, code);
      parent.append(code);
      plain = INLINE.lastIndex = close + m[2].length;
    } else if (m[3]) {
      const close = closingMark(text, m[3], at, end);
      if (close < 0) continue;
      flush(at);
      nested(el(m[3] === "~~" ? "s" : m[3].length === 2 ? "strong" : "em"), at + m[3].length, close, close + m[3].length);
    } else if (m[4]) {
      const link = text.slice(at, Math.min(end, at + MAX_SPAN)).match(/^!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\])*)\]\(\s*<?((?:[^\s()<>]|\([^\s()]*\))*)>?(?:\s+["'(][^)]*)?\)/);
      const url = link && safeUrl(link[2]);
      if (!link) continue;
      flush(at);
      const begin = at + m[4].length;
      nested(url ? anchor(url) : el("span"), begin, begin + link[1].length, at + link[0].length);
    } else {
      const url = safeUrl(m[5] || m[6]);
      if (!url || at + m[0].length > end) continue;
      flush(at);
      const a = anchor(url), begin = at + (m[5] ? 1 : 0);
      emit(begin, begin + (m[5] || m[6]).length, a);
      parent.append(a);
      plain = INLINE.lastIndex = at + m[0].length;
    }
  }
  flush(end);
}
// The place of a run of backticks of that very length; -1: none.
function closingTicks(text, ticks, from, end) {
  end = Math.min(end, from + MAX_SPAN);
  for (let k = text.indexOf(ticks, from); k >= 0 && k < end; k = text.indexOf(ticks, k)) {
    let length = 0;
    while (text[k + length] === "`") length++;
    if (length === ticks.length) return k;
    k += length;
  }
  return -1;
}
