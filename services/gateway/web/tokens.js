// ---- probabilities under the pointer
const pop = $("pop");
const visible = s => (s === "" ? "∅" : s.replace(/ /g, "␣").replace(/\n/g, "⏎").replace(/\t/g, "⇥"));
const percent = lp => { const p = Math.exp(lp) * 100; return p >= 99.95 ? "100%" : p >= .095 ? p.toFixed(1) + "%" : p >= .0005 ? p.toFixed(3) + "%" : "<0.001%"; };

function tokenSpan(text, token) {
  const s = el("span", "tok", text);
  s.info = token.parts;
  const p = Math.exp(Math.min(...token.parts.map(x => x.logprob)));
  s.style.setProperty("--h", ((1 - p) * .55).toFixed(3));
  return s;
}
// Makes the leaves of rendered Markdown: source text from `at` on as spans of the answer's tokens,
// which begin `offset` characters into the source. What no token stands for is plain text.
function tokenLeaves(answer, offset) {
  if (answer) answer.place();
  const known = answer ? answer.tokens.slice(0, answer.placed).filter(t => t.end > t.begin) : [];
  return (text, at) => {
    const out = document.createDocumentFragment();
    let from = at - offset;
    const end = from + text.length, part = (a, b) => text.slice(a - (at - offset), b - (at - offset));
    let lo = 0, hi = known.length;
    while (lo < hi) { const mid = (lo + hi) >> 1; if (known[mid].end <= from) lo = mid + 1; else hi = mid; }
    for (; lo < known.length && known[lo].begin < end; lo++) {
      const begin = Math.max(from, known[lo].begin), stop = Math.min(end, known[lo].end);
      if (begin > from) out.append(part(from, begin));
      out.append(tokenSpan(part(begin, stop), known[lo]));
      from = stop;
    }
    if (from < end) out.append(part(from, end));
    return out;
  };
}
function openPop(span) {
  pop.textContent = "";
  for (const t of span.info) {
    const head = el("div", "head");
    head.append(el("code", "", visible(t.token)), el("b", "", percent(t.logprob)));
    pop.append(head);
    const all = t.top_logprobs.some(a => a.token === t.token) ? t.top_logprobs : t.top_logprobs.concat([t]);
    for (const a of all) {
      const row = el("div", "alt" + (a.token === t.token ? " me" : "")), bar = el("div", "bar"), fill = el("i");
      fill.style.width = Math.max(1, Math.exp(a.logprob) * 100) + "%";
      bar.append(fill);
      row.append(el("code", "", visible(a.token)), bar, el("span", "", percent(a.logprob)));
      pop.append(row);
    }
  }
  pop.hidden = false;
  const r = span.getClientRects()[0] || span.getBoundingClientRect();
  const x = Math.min(Math.max(8, r.left), innerWidth - pop.offsetWidth - 8);
  const below = r.bottom + 6 + pop.offsetHeight < innerHeight;
  pop.style.left = x + "px";
  pop.style.top = (below ? r.bottom + 6 : Math.max(8, r.top - pop.offsetHeight - 6)) + "px";
}
$("turns").addEventListener("pointerover", e => { if (e.target.classList.contains("tok")) openPop(e.target); });
$("turns").addEventListener("pointerout", e => { if (e.target.classList.contains("tok")) pop.hidden = true; });
