// The plot with its axis and filters, each row's curves, and sorting. The data are those of harness/report/points.py.
"use strict";

const AXES = {
  params: {label: "trained parameters", less: "with fewer trained parameters", log: true},
  file: {label: "adapter file, bytes", less: "in a smaller file", log: true},
  peak: {label: "peak memory of training, GB", less: "with less memory", counted: true},
  launches: {label: "kernel launches of a training step", less: "with fewer kernel launches", counted: true},
  forgetting: {label: "forgetting, nats per token on other text", less: "that forgets less"},
};
const COUNTED = "Counted on Qwen3-0.6B's shapes with GSM8K's settings (reports/bench.md), unless measured on a GPU.";
const SHOWN_FIRST = 3; // columns before the curves: name, accuracy, difference
const ROW = 14; // height of a label in pixels
const SHAPES = [ // a mark around (0, 0) for each data set
  "M5 0A5 5 0 1 1 -5 0A5 5 0 1 1 5 0", "M-4.5 -4.5h9v9h-9z", "M0 -6L5.5 4.5H-5.5z", "M0 -6L6 0L0 6L-6 0z",
];

const element = id => document.getElementById(id);
const sets = JSON.parse(element("data").textContent);
const sections = [...document.querySelectorAll("section")];
const points = sets.flatMap((set, n) => set.points.map(point => ({...point, set: n})));
let selected = null;

// -- elements ---------------------------------------------------------------------------------------------------------
function make(name, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.textContent = text;
  return node;
}
const line = (kind, x1, y1, x2, y2) => make("line", {class: kind, x1, y1, x2, y2});
const text = (kind, x, y, anchor, content) => make("text", {class: kind, x, y, "text-anchor": anchor}, content);
const short = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 2});
const number = value => Math.abs(value) < 1000 ? `${+value.toPrecision(4)}` : short.format(value);
const percent = p => `${p.accuracy.toFixed(1)} %` + (p.low === null ? "" : ` [${p.low.toFixed(1)}, ${p.high.toFixed(1)}]`);

// -- scales -----------------------------------------------------------------------------------------------------------
function scale(values, start, end, log = false) {
  // From a value to a pixel, with a margin of 4 %; `ticks` are round values in between.
  const place = log ? Math.log10 : value => value;
  let low = place(Math.min(...values)), high = place(Math.max(...values));
  const margin = (high - low) * 0.04 || (log ? 0.2 : Math.abs(low) * 0.1 || 1);
  [low, high] = [low - margin, high + margin];
  const f = value => Math.round(10 * (start + (end - start) * (place(value) - low) / (high - low))) / 10;
  f.ticks = (log ? decades : steps)(low, high, Math.abs(end - start));
  return f;
}
function steps(low, high, pixels) {
  const rough = (high - low) / Math.max(2, pixels / 70), unit = 10 ** Math.floor(Math.log10(rough));
  const step = unit * [1, 2, 5, 10].find(factor => factor * unit >= rough), ticks = [];
  for (let n = Math.ceil(low / step); n * step <= high; n++) ticks.push(+(n * step).toPrecision(12));
  return ticks;
}
function decades(low, high, pixels) {
  const factors = pixels / (high - low) > 220 ? [1, 2, 5] : [1], ticks = [];
  for (let e = Math.floor(low); e <= high; e++) ticks.push(...factors.map(factor => factor * 10 ** e));
  return ticks.filter(value => Math.log10(value) >= low && Math.log10(value) <= high);
}
function axes(x, y, box, xLabel) {
  return [
    ...y.ticks.map(t => line("grid", box.left, y(t), box.right, y(t))),
    ...y.ticks.map(t => text("tick", box.left - 6, y(t) + 4, "end", number(t))),
    ...x.ticks.map(t => text("tick", x(t), box.bottom + 16, "middle", number(t))),
    line("axis", box.left, box.bottom, box.right, box.bottom),
    text("", (box.left + box.right) / 2, box.bottom + 34, "middle", xLabel),
  ];
}

// -- labels -----------------------------------------------------------------------------------------------------------
const pen = document.createElement("canvas").getContext("2d");
function widthOf(content) {
  pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  return pen.measureText(content).width + 2;
}
const overlap = (a, b) => a[0] < b[2] && b[0] < a[2] && a[1] < b[3] && b[1] < a[3];
function placeLabels(marks, taken, box) {
  // Of each mark {x, y, name}: the nearest free rectangle [left, top, right, bottom] right or left of it, or undefined.
  const shifts = [0];
  for (let n = 1; n <= (marks.length > 40 ? 8 : 24); n++) shifts.push(-n, n); // far labels of many marks are a tangle
  taken.push(...marks.map(m => [m.x - 5, m.y - 5, m.x + 5, m.y + 5]));
  return marks.map(({x, y, name}) => {
    const width = widthOf(name);
    const tries = shifts.flatMap(n => {
      const gap = 8 + Math.min(30, 1.5 * Math.abs(n)), top = y + (n - 1) * ROW / 2;
      return [x + gap, x - gap - width].map(left => [left, top, left + width, top + ROW]);
    });
    const inside = r => r[0] >= box.left && r[1] >= box.top && r[2] <= box.right && r[3] <= box.bottom;
    const place = tries.find(r => inside(r) && !taken.some(other => overlap(r, other)));
    if (place) taken.push(place);
    return place;
  });
}

// -- the plot ---------------------------------------------------------------------------------------------------------
function front(marks, cost) {
  // Marks that nothing as cheap beats, cheapest first.
  const best = [];
  for (const mark of [...marks].sort((a, b) => a[cost] - b[cost] || b.accuracy - a.accuracy))
    if (!best.length || mark.accuracy > best.at(-1).accuracy) best.push(mark);
  return best;
}
function passes(p) {
  const choice = name => element(name).value;
  return (!choice("family") || p.reference || p.family === choice("family"))
    && (!choice("quantization") || p.quantization === choice("quantization"))
    && (p.reference || p.seeds >= +choice("seeds"));
}
const used = set => element("sets").querySelector(`input[value="${set}"]`).checked;

function draw() {
  const svg = element("plot"), width = svg.parentElement.clientWidth, height = width < 600 ? 500 : 560;
  const cost = element("axis").value, {label, less, log, counted} = AXES[cost];
  const box = {left: 34, top: 8, right: width - 4, bottom: height - 42};
  const shown = points.filter(p => used(p.set) && passes(p));
  const marks = shown.filter(p => !p.reference && Number.isFinite(p[cost]) && (!log || p[cost] > 0));
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  for (const row of document.querySelectorAll("tr[data-id]"))
    row.hidden = !passes(pointOf(row));
  sections.forEach((section, n) => section.hidden = !used(n));
  svg.replaceChildren();
  answer(marks, cost, less);
  caption(shown, marks, label, counted);
  if (!marks.length) return;
  const references = shown.filter(p => p.reference);
  const x = scale(marks.map(p => p[cost]), box.left + 8, box.right - 8, log);
  const ends = marks.flatMap(p => [p.low ?? p.accuracy, p.high ?? p.accuracy]), low = Math.min(...ends), high = Math.max(...ends);
  const near = references.map(p => p.accuracy).filter(a => Math.max(low - a, a - high) < 0.35 * (high - low)); // the others: arrows
  const y = scale([...ends, ...near], box.bottom, box.top);
  const fronts = sets.map((_, n) => front(marks.filter(p => p.set === n), cost));
  const ordered = [...fronts.flat(), ...marks.filter(p => !fronts[p.set].includes(p)).sort((a, b) => b.accuracy - a.accuracy)];
  const taken = [];
  svg.append(
    ...axes(x, y, box, label),
    ...fronts.filter(f => f.length).map(f => make("path", {class: `front set${f[0].set % 6}`, d: stairs(f, cost, x, y, box)})),
    ...references.flatMap(p => referenceLine(p, y, box, taken)),
    ...ordered.flatMap(p => bars(p, x(p[cost]), y)),
    ...names(ordered.map(p => ({...p, x: x(p[cost]), y: y(p.accuracy)})), taken, box),
    ...ordered.map(p => markOf(p, x(p[cost]), y(p.accuracy), cost)),
  );
}
function stairs(marks, cost, x, y, box) {
  const [first, ...others] = marks;
  return `M${x(first[cost])} ${y(first.accuracy)}${others.map(p => `H${x(p[cost])}V${y(p.accuracy)}`).join("")}H${box.right}`;
}
function referenceLine(p, y, box, taken) {
  // A line with its name, or an arrow where it lies outside the plot. `taken` keeps other labels off the name.
  const at = y(p.accuracy), off = at > box.bottom ? "↓ " : at < box.top ? "↑ " : "";
  const name = `${off}${p.name} ${p.accuracy.toFixed(1)}`, ideal = Math.min(box.bottom - ROW, Math.max(box.top, at - ROW));
  const top = taken.some(r => Math.abs(r[1] - ideal) < ROW) ? ideal + (off === "↓ " ? -ROW : ROW) : ideal;
  const left = off === "↑ " ? box.left + 4 : box.right - 4 - widthOf(name); // right, where points are most often far above
  taken.push([left, top, left + widthOf(name), top + ROW]);
  const across = off ? [] : [line(`reference set${p.set % 6}`, box.left, at, box.right, at)];
  return [...across, text("name", left, top + 11, "start", name)];
}
function bars(p, x, y) {
  const ends = [["spread", p.seed_low, p.seed_high], ["interval", p.low, p.high]].filter(bar => bar[1] !== null);
  return ends.map(([kind, low, high]) => line(`${kind} set${p.set % 6}`, x, y(low), x, y(high)));
}
function markOf(p, x, y, cost) {
  const kind = `mark set${p.set % 6}${p === selected ? " selected" : ""}`;
  const node = make("path", {class: kind, d: SHAPES[p.set % SHAPES.length], transform: `translate(${x} ${y})`});
  node.append(make("title", {}, `${p.name}: ${percent(p)}, ${p.seeds} seed(s), ${AXES[cost].label} ${number(p[cost])}`));
  node.addEventListener("click", () => select(p));
  return node;
}
function names(marks, taken, box) {
  return placeLabels(marks, taken, box).flatMap((place, n) => {
    const mark = marks[n], left = place && place[0] < mark.x, original = pointFor(mark.set, mark.id);
    if (!place) return [];
    const label = text(`name${original === selected ? " selected" : ""}`, left ? place[2] : place[0], place[1] + 11, left ? "end" : "start", mark.name);
    label.addEventListener("click", () => select(original));
    const middle = place[1] + ROW / 2, far = Math.abs(middle - mark.y) > ROW / 2;
    return far ? [line("leader", mark.x, mark.y, left ? place[2] + 1 : place[0] - 2, middle), label] : [label];
  });
}
function answer(marks, cost, less) {
  // A step that is smaller than its interval is no answer.
  const first = sets.findIndex((_, n) => used(n)), best = [];
  for (const p of front(marks.filter(p => p.set === first), cost))
    if (!best.length || p.low === null || p.low > best.at(-1).accuracy) best.push(p);
  const parts = best.reverse().slice(0, 6).flatMap((p, n) => [
    ["", `; ${less} `][n] ?? ", ", Object.assign(document.createElement("strong"), {textContent: p.name}), ` ${percent(p)}`,
  ]);
  element("answer").replaceChildren(...best.length ? [`${sets[first].title}: most accurate `, ...parts, best.length > 6 ? ", …" : "."] : []);
}
function caption(shown, marks, label, counted) {
  const missing = shown.filter(p => !p.reference).length - marks.length;
  const parts = [
    "Accuracy on the test set, %. Thin bars: 95 % intervals; broad bands: range of the seeds; dashed: the Pareto front; dotted: full fine-tuning and the untrained model.",
    counted ? COUNTED : "", missing ? `${missing} row(s) without “${label}” are left out.` : "",
    ...sets.filter((_, n) => used(n)).map(set => set.note),
  ];
  element("caption").textContent = parts.filter(Boolean).join(" ");
}

// -- curves -----------------------------------------------------------------------------------------------------------
const pointFor = (set, id) => points.find(p => p.set === set && p.id === id);
const pointOf = row => {
  const set = sections.indexOf(row.closest("section"));
  return pointFor(set, row.dataset.id) ?? {reference: true, set}; // a row without an accuracy has no point
};
const baselineOf = p => points.find(base => base.set === sets[p.set].base && base.baseline);
function lossBeside(p) {
  const base = new Map(baselineOf(p)?.loss);
  return (p.loss ?? []).filter(([step]) => base.has(step)).map(([step, loss]) => [step, loss - base.get(step)]);
}
function chart(series, {width, height, log = false, label = "", title = ""}) {
  // series: [{kind, points: [[x, y, ringed?]]}]. A chart with a label has axes, one without is a sparkline.
  const box = label ? {left: 44, top: 22, right: width - 8, bottom: height - 40} : {left: 3, top: 3, right: width - 3, bottom: height - 3};
  const svg = make("svg", {width, height, role: "img", "aria-label": title || "curve"}), all = series.flatMap(s => s.points);
  const x = scale(all.map(p => p[0]), box.left, box.right, log), y = scale(all.map(p => p[1]), box.bottom, box.top);
  if (label) svg.append(...axes(x, y, box, label), text("", 0, 12, "start", title));
  for (const {kind, points: of} of series) {
    svg.append(make("path", {class: `curve ${kind}`, d: "M" + of.map(p => `${x(p[0])} ${y(p[1])}`).join("L")}));
    for (const [a, b, ringed] of of)
      if (ringed) svg.append(make("circle", {class: "ring", cx: x(a), cy: y(b), r: label ? 5 : 3}));
  }
  return svg;
}
function ratesChart(p, size) {
  const base = baselineOf(p), own = {kind: `set${p.set % 6}`, points: p.rates ?? []};
  const beside = base?.rates && base !== p && size.label ? [{kind: "base", points: base.rates.map(([lr, valid]) => [lr, valid])}] : [];
  return p.rates ? chart([...beside, own], {...size, log: true}) : null;
}
function lossChart(p, size) {
  const own = lossBeside(p);
  if (!own.length || p.baseline) return null;
  return chart([{kind: "base", points: own.map(([step]) => [step, 0])}, {kind: `set${p.set % 6}`, points: own}], size);
}
function select(p) {
  selected = p;
  const width = Math.min(560, element("curves").clientWidth), base = baselineOf(p)?.name, size = {width, height: 230};
  const besides = base && !p.baseline ? `; grey: ${base}` : "";
  const charts = [
    ratesChart(p, {...size, label: "learning rate", title: `validation accuracy, % (ring: chosen${besides})`}),
    lossChart(p, {...size, label: "step", title: `training loss − ${base}'s, nats per token`}),
  ].filter(Boolean);
  element("chosen").textContent = `${p.name}: ${percent(p)}${charts.length ? "" : " (no curves)"}`;
  element("curves").replaceChildren(...charts);
  for (const row of document.querySelectorAll("tr[data-id]")) row.classList.toggle("selected", pointOf(row) === p);
  draw();
}
function addSparklines(section, n) {
  if (!sets[n].points.some(p => p.rates || p.loss)) return;
  const beside = section.querySelectorAll("th")[SHOWN_FIRST - 1], size = {width: 90, height: 26}, base = baselineOf({set: n});
  for (const title of base ? [`loss − ${base.name}'s`, "learning rates"] : ["learning rates"])
    beside.after(Object.assign(document.createElement("th"), {textContent: title, scope: "col"}));
  for (const row of section.querySelectorAll("tr[data-id]")) {
    const p = pointOf(row);
    for (const svg of base ? [lossChart(p, size), ratesChart(p, size)] : [ratesChart(p, size)]) {
      const button = Object.assign(document.createElement("button"), {type: "button", title: "show large"});
      button.append(...svg ? [svg] : []);
      button.addEventListener("click", () => { select(p); element("chosen").scrollIntoView({block: "center"}); });
      row.insertCell(SHOWN_FIRST).append(...svg ? [button] : []);
    }
  }
}

// -- controls ---------------------------------------------------------------------------------------------------------
function fill(id, options) {
  element(id).append(...options.map(([value, content]) => new Option(content, value)));
}
function values(key) {
  return [...new Set(points.filter(p => !p.reference).map(p => p[key]))].sort((a, b) => typeof a === "number" ? a - b : a.localeCompare(b));
}
fill("axis", Object.entries(AXES).filter(([key]) => points.some(p => Number.isFinite(p[key]))).map(([key, {label}]) => [key, label]));
fill("family", [["", "all"], ...values("family").map(v => [v, v])]);
fill("quantization", [["", "all"], ...values("quantization").map(v => [v, v])]);
fill("seeds", [[1, "any number"], ...values("seeds").filter(n => n > 1).map(n => [n, `${n} or more`])]);
sets.forEach((set, n) => {
  const label = document.createElement("label"), box = document.createElement("input");
  Object.assign(box, {type: "checkbox", value: n, checked: n === 0});
  label.className = `set${n % 6}`;
  label.append(box, ` ${set.title}`);
  element("sets").append(label);
});
element("quantization").addEventListener("change", ({target}) => { // show a table that has such rows
  const has = n => sets[n].points.some(p => !p.reference && (!target.value || p.quantization === target.value));
  if (sets.some((_, n) => used(n) && has(n))) return;
  element("sets").querySelectorAll("input").forEach((box, n) => box.checked ||= n === sets.findIndex((_, m) => has(m)));
});
element("controls").addEventListener("change", draw);

function sort(button) {
  const th = button.parentElement, row = th.parentElement, body = row.closest("table").tBodies[0];
  const column = [...row.cells].indexOf(th), rising = th.getAttribute("aria-sort") === "descending";
  for (const other of row.cells) other.removeAttribute("aria-sort");
  th.setAttribute("aria-sort", rising ? "ascending" : "descending");
  const key = tr => tr.cells[column].dataset.key;
  const order = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
  const rows = [...body.rows], full = rows.filter(tr => key(tr) !== ""), empty = rows.filter(tr => key(tr) === "");
  full.sort((a, b) => (rising ? 1 : -1) * order(key(a), key(b)));
  body.append(...full, ...empty);
}
for (const button of document.querySelectorAll("th button")) button.addEventListener("click", () => sort(button));

sections.forEach(addSparklines);
const best = front(points.filter(p => p.set === 0 && !p.reference && p.params > 0), "params").at(-1);
if (best) select(best); else draw();
new ResizeObserver(() => selected ? select(selected) : draw()).observe(element("plot").parentElement);
