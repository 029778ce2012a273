// ---- parameters
// Each is the API's own default until the user sets it; only what is set is sent.
const PARAMS = [
  {name: "temperature", label: "Temperature", min: 0, max: 2, step: .05, api: 1},
  {name: "top_p", label: "Top-p", min: .05, max: 1, step: .05, api: 1},
  {name: "top_k", label: "Top-k", min: 0, max: 200, step: 1, api: 0, show: v => (v === 0 ? "off" : v)},
  {name: "min_p", label: "Min-p", min: 0, max: .5, step: .01, api: 0, show: v => (v === 0 ? "off" : v)},
  {name: "repetition_penalty", label: "Repetition penalty", min: 1, max: 1.5, step: .01, api: 1},
];
// The page's former version saved values of its own under "tutti": of those only what the user
// surely chose still counts.
const former = readStored("tutti", {});
const settings = readStored("tutti.settings", {set: {}, system: former.system || "", heat: !!former.heat, theme: former.theme});
if (typeof settings.set !== "object" || settings.set === null) settings.set = {};
const saveSettings = () => { try { localStorage.setItem("tutti.settings", JSON.stringify(settings)); } catch {} };

const sliders = {};
for (const p of PARAMS) {
  const label = el("label"), row = el("span", "row"), out = el("output"), input = el("input");
  Object.assign(input, {type: "range", min: p.min, max: p.max, step: p.step, id: "p-" + p.name});
  const show = () => {
    const given = p.name in settings.set, v = given ? settings.set[p.name] : p.api;
    input.value = v;
    out.textContent = (p.show ? p.show(+v) : +v) + (given ? "" : " · default");
    label.classList.toggle("set", given);
  };
  input.addEventListener("input", () => { settings.set[p.name] = +input.value; show(); saveSettings(); });
  row.append(el("span", "", p.label), out);
  label.append(row, input);
  $("sliders").append(label);
  sliders[p.name] = show;
  show();
}
$("p-max_tokens").value = settings.set.max_tokens ?? "";
$("p-max_tokens").oninput = () => {
  const v = parseInt($("p-max_tokens").value, 10);
  if (v > 0) settings.set.max_tokens = v; else delete settings.set.max_tokens;
  saveSettings();
};
// What the user set, as fields of a request.
const chosenParams = () => ({...settings.set});

$("system").value = settings.system || "";
$("system").oninput = () => { settings.system = $("system").value; saveSettings(); };
$("heat").checked = !!settings.heat;
$("heat").onchange = () => { settings.heat = $("heat").checked; $("turns").classList.toggle("heat", settings.heat); saveSettings(); };
$("turns").classList.toggle("heat", !!settings.heat);
const seedHint = () => { $("seed-hint").textContent = $("seed").value.trim() ? "fixed" : "random"; };
$("seed").oninput = seedHint;
$("reset").onclick = () => {
  settings.set = {};
  settings.system = $("system").value = $("seed").value = $("stop").value = $("p-max_tokens").value = "";
  Object.values(sliders).forEach(show => show());
  seedHint();
  saveSettings();
};
const randomSeed = () => { const b = crypto.getRandomValues(new Uint32Array(2)); return String((b[0] & 0x1fffff) * 0x100000000 + b[1]); };
// Seeds are text here: they have up to 64 bits, numbers of JavaScript 53.
function fixedSeed() {
  const text = $("seed").value.trim();
  if (!text) return null;
  if (!/^-?\d{1,20}$/.test(text) || BigInt(text) < -(1n << 63n) || BigInt(text) >= 1n << 64n)
    throw new ApiError({message: "The seed must be a whole number from -2^63 to 2^64 - 1.", param: "seed"});
  return text;
}

// ---- theme and drawers
const setTheme = t => { document.documentElement.dataset.theme = t; };
setTheme(settings.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").onclick = () => { settings.theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark"; setTheme(settings.theme); saveSettings(); };
const narrow = () => innerWidth < 900;
function drawer(name, open) {
  document.body.classList.toggle("no-" + name, !open);
  if (open && narrow()) document.body.classList.add(name === "side" ? "no-chats" : "no-side");
}
const drawerOpen = name => !document.body.classList.contains("no-" + name);
$("panel").onclick = () => drawer("side", !drawerOpen("side"));
$("menu").onclick = () => drawer("chats", !drawerOpen("chats"));
$("veil").onclick = () => { drawer("side", false); drawer("chats", false); };
if (narrow()) { drawer("side", false); drawer("chats", false); }
