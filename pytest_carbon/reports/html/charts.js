"use strict";
/* The charts. Each has a text that says the same; colours follow the page's theme. */

const MOST_CHANGES = 30, LEAST_CHANGES = 12;
const TONES = {
  error: "bad", "over-budget": "bad", regression: "bad", changed: "bad", "with a warning": "bad", "test failed": "bad",
  inconclusive: "warn", blind: "warn", accepted: "new", improvement: "good", new: "new",
};
const SYMBOLS = { regression: "triangle", "over-budget": "diamond", changed: "diamond", improvement: "triangle", inconclusive: "cross", accepted: "square" };
const tone = (status) => `var(--${TONES[status] || "mute"})`;
const symbol = (status) => SYMBOLS[status] || "circle";

/** Draw a chart into a place, with its text alternative; again when its width changes. A click on a row opens it. */
function draw(place, text, make, links = []) {
  let before = 0;
  const paint = () => {
    const width = Math.floor(place.clientWidth);
    if (width < 40 || Math.abs(width - before) < 8) return;
    before = width;
    const svg = make(width);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", text);
    for (const part of svg.querySelectorAll("[aria-label]")) part.removeAttribute("aria-label");  // one image, one text
    svg.addEventListener("click", (event) => {
      const part = event.target.closest(".link > *");
      if (part && links[part.__data__]) location.hash = links[part.__data__];
    });
    place.replaceChildren(svg);
  };
  paint();
  new ResizeObserver(paint).observe(place);
}

/** The logarithm of now / before: a doubling is as far from 0 as a halving. */
const ratio = (change) => Math.log1p(Math.max(change, -0.999));
const STEPS = [-0.99, -0.9, -0.75, -0.5, -0.3, -0.2, -0.1, -0.05, -0.02, -0.01, 0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5];

function ratioTicks(low, high, width) {
  const all = [...STEPS, 1, 2, 4, 9, ...d3.range(2, 40).map((power) => 10 ** power - 1)].map(ratio);
  const inside = all.filter((tick) => tick >= low - 1e-9 && tick <= high + 1e-9);
  const room = ((high - low) / width) * 46;
  const kept = [0];
  for (const tick of inside.sort((a, b) => Math.abs(b) - Math.abs(a))) {
    if (kept.every((other) => Math.abs(other - tick) > room)) kept.push(tick);
  }
  return kept;
}

function ratioText(tick) {
  const change = Math.expm1(tick);
  if (Math.abs(change) < 1e-9) return "0";
  if (change > 0.99) return `${d3.format(change < 1e4 ? ",.0f" : ".0e")(1 + change)}×`;
  return `${change > 0 ? "+" : "−"}${d3.format(".3~g")(Math.abs(change) * 100)}%`;
}

/** Labels of rows: beside a wide chart, above the line of a narrow one. */
function rowLabels(data, narrow, margin, options) {
  const most = narrow ? 44 : Math.floor(margin / 6.6);
  return Plot.text(data, {
    y: "key", text: (d) => shortened(d.label, most), title: "label", textAnchor: narrow ? "start" : "end",
    frameAnchor: "left", dx: narrow ? 0 : -10, dy: narrow ? -9 : 0, fill: "currentColor", ...options,
  });
}

/** Each change with its tolerance and its smallest detectable change. */
function changesChart(place, caption, rows) {
  const of = rows.change.some((change) => change !== null) ? "change" : "work_change", changes = rows[of], energy = of === "change";
  const measured = d3.range(rows.count).filter((i) => changes[i] !== null);
  const effects = ["fails", "warns", "accepted", "none"];
  measured.sort((a, b) => effects.indexOf(rows.effect[a]) - effects.indexOf(rows.effect[b])
    || (TONES[rows.status[a]] ? 0 : 1) - (TONES[rows.status[b]] ? 0 : 1) || Math.abs(ratio(changes[b])) - Math.abs(ratio(changes[a])));
  const concerning = measured.filter((i) => rows.effect[i] !== "none" || TONES[rows.status[i]]).length;
  const data = measured.slice(0, Math.min(MOST_CHANGES, Math.max(LEAST_CHANGES, concerning))).map((i) => ({
    key: i, label: rows.machines > 1 ? `${rows.label(i)} @ ${rows.machine[i]}` : rows.label(i), status: rows.status[i],
    x: ratio(changes[i]), text: rows[`${of}_text`][i], href: `#${encodeURIComponent(rows.anchor(i).slice(0, 2000))}`,
    tolerance: energy ? rows.tolerance[i] : null, detectable: rows.detectable[i] === null ? null : ratio(rows.detectable[i]),
    title: `${shortened(rows.label(i), 200)}: ${rows[`${of}_text`][i]}, ${rows.status[i]}${energy ? `; smallest detectable change ${rows.detectable_text[i]}` : ""}`,
  }));
  const rest = measured.length - data.length;
  caption.textContent = `${energy ? "Change of the energy per call" : "Largest change of what was counted per call"} from the baseline${rest ? `: the ${data.length} largest of ${d3.format(",")(measured.length)}, failing ones first` : ""}. `
    + (energy ? "Band: the tolerance. Bracket: the smallest detectable change." : "Counts have no noise.");
  const extent = data.flatMap((d) => [d.x, ...(d.tolerance ? [ratio(d.tolerance), -ratio(d.tolerance)] : []), ...(d.detectable ? [d.detectable] : [])]);
  const [least, most] = d3.extent([0.02, -0.02, ...extent]);
  const pad = (most - least) * 0.06;
  const worst = data[0];
  draw(place, `Changes of ${data.length} measurements. ${worst.title}.`, (width) => {
    const narrow = width < 640, margin = narrow ? 4 : Math.min(360, width * 0.36), right = energy ? 58 : 96;
    const domain = [least - pad, most + pad], line = narrow ? 40 : 24, shift = narrow ? 8 : 0;
    return Plot.plot({
      width, height: data.length * line + 44, marginLeft: margin, marginRight: right, marginTop: 24, marginBottom: 8,
      x: { domain, axis: "top", ticks: ratioTicks(...domain, width - margin - right), tickFormat: ratioText, label: null, grid: true, tickSize: 0 },
      y: { domain: data.map((d) => d.key), type: "band", axis: null, padding: 0.25 },
      marks: [
        Plot.ruleX([0], { stroke: "currentColor", strokeOpacity: 0.5 }),
        Plot.barX(data.filter((d) => d.tolerance), { x1: (d) => -ratio(d.tolerance), x2: (d) => ratio(d.tolerance), y: "key", fill: "var(--band)", insetTop: narrow ? 16 : 0, rx: 2 }),
        Plot.ruleY(data.filter((d) => d.detectable), { x1: 0, x2: "detectable", y: "key", stroke: "currentColor", strokeOpacity: 0.35, dy: shift }),
        Plot.tickX(data.filter((d) => d.detectable), { x: "detectable", y: "key", stroke: "currentColor", strokeOpacity: 0.6, insetTop: narrow ? 18 : 4, insetBottom: 4 }),
        Plot.dot(data, { x: "x", y: "key", dy: shift, r: 5, symbol: (d) => symbol(d.status), fill: (d) => (d.status === "blind" ? "var(--back)" : tone(d.status)), stroke: (d) => tone(d.status), rotate: (d) => (d.status === "improvement" ? 180 : 0), title: "title", className: "link" }),
        rowLabels(data, narrow, margin, { className: "link" }),
        Plot.text(data, { y: "key", frameAnchor: "right", text: "text", textAnchor: "end", dx: right - 2, dy: shift, fill: (d) => tone(d.status), fontWeight: 600 }),
      ],
      symbol: { type: "identity" }, color: { type: "identity" },
    });
  }, data.map((d) => d.href));
}

/** Figures on a logarithmic axis with their errors, by task or file, beside published ones. */
function rankingChart(place, caption, ranking) {
  const data = [], unit = ranking.unit.split(" ")[0];
  let group = null;
  ranking.bars.forEach((bar, i) => {
    if (bar.group !== group) data.push({ key: `g${i}`, header: true, label: (group = bar.group) });
    const low = bar.error === null ? bar.value : Math.max(bar.value - bar.error, bar.value / 10);
    data.push({ ...bar, key: `b${i}`, low, high: bar.value + (bar.error || 0), title: [`${bar.label}: ${bar.text}`, ...bar.marks.map((mark) => mark.text)].join("\n") });
  });
  const bars = data.filter((d) => !d.header), marks = bars.flatMap((bar) => bar.marks.map((mark) => ({ ...mark, key: bar.key })));
  const kinds = new Set(marks.map((mark) => mark.kind));
  caption.textContent = `${ranking.unit}, on a logarithmic axis${bars.some((bar) => bar.error !== null) ? ", with the 95% error" : ""}.`
    + (kinds.has("study") ? " Diamond: the study's figure (its whole node)." : "")
    + (kinds.has("range") ? " Grey line: AI Energy Score's least to greatest of the task, its bar the median (the GPU alone)." : "")
    + (kinds.has("score") ? " Star: AI Energy Score's figure of the model." : "")
    + (bars.some((bar) => bar.unsure) ? " Hollow: with a warning, or its test failed." : "")
    + (ranking.left_out ? ` ${d3.format(",")(ranking.left_out)} cheaper ones are not shown.` : "");
  const [least, most] = d3.extent([...bars.flatMap((bar) => [bar.low, bar.high]), ...marks.flatMap((mark) => [mark.value, mark.low ?? mark.value, mark.high ?? mark.value])].filter((value) => value > 0));
  const domain = [least / 1.35, most * 1.35];
  const dearest = d3.greatest(bars, (bar) => bar.value), cheapest = d3.least(bars, (bar) => bar.value);
  draw(place, `${ranking.title}: ${bars.length} figures, from ${cheapest.text} (${cheapest.label}) to ${dearest.text} (${dearest.label}).`, (width) => {
    const narrow = width < 640, margin = narrow ? 4 : Math.min(360, width * 0.36), right = 84;
    const ticks = logTicks(domain, width - margin - right), shift = narrow ? 8 : 0, of = (kind) => marks.filter((mark) => mark.kind === kind);
    return Plot.plot({
      width, height: data.length * (narrow ? 36 : 22) + 44, marginLeft: margin, marginRight: right, marginTop: 24, marginBottom: 8,
      x: { type: "log", domain, axis: null },
      y: { domain: data.map((d) => d.key), type: "band", axis: null, padding: 0.2 },
      marks: [
        Plot.gridX(ticks),
        Plot.text(ticks, { x: (value) => value, frameAnchor: "top", dy: -12, text: (value) => si(value, unit) }),  // an axis leaves some out
        Plot.ruleY(of("range"), { x1: "low", x2: "high", y: "key", stroke: "var(--line)", strokeWidth: 4, dy: shift, title: "text" }),
        Plot.tickX(of("range"), { x: "value", y: "key", stroke: "var(--mute)", strokeWidth: 2, insetTop: narrow ? 18 : 3, insetBottom: 3, title: "text" }),
        Plot.ruleY(bars, { x1: "low", x2: "high", y: "key", stroke: "var(--accent)", strokeWidth: 1.5, dy: shift }),
        Plot.dot(of("study"), { x: "value", y: "key", symbol: "diamond", r: 5, stroke: "var(--mute)", fill: "var(--back)", dy: shift, title: "text" }),
        Plot.dot(of("score"), { x: "value", y: "key", symbol: "star", r: 5, stroke: "var(--mute)", fill: "var(--back)", dy: shift, title: "text" }),
        Plot.dot(bars, { x: "value", y: "key", r: 4, fill: (d) => (d.unsure ? "var(--back)" : "var(--accent)"), stroke: "var(--accent)", dy: shift, title: "title" }),
        rowLabels(bars, narrow, margin, {}),
        Plot.text(data.filter((d) => d.header), { y: "key", text: (d) => shortened(d.label, narrow ? 40 : 60), frameAnchor: "left", textAnchor: "start", dx: narrow ? 0 : -margin + 2, fontWeight: 600, fill: "var(--mute)" }),
        Plot.text(bars, { y: "key", text: (d) => si(d.value, unit), frameAnchor: "right", textAnchor: "end", dx: right - 2, dy: shift, fill: "currentColor" }),
      ],
      color: { type: "identity" },
    });
  });
}

/** The records in the baselines, and this run's figure; a line where a change was accepted. */
function historyChart(place, detail, now, status, tolerance) {
  const points = historyPoints(detail.history), base = now.then?.energy;
  const energies = points.map((point) => point.energy), accepted = (detail.history.accepted || []).map((at) => ({ at: new Date(at * 1000) }));
  const last = points.at(-1).epoch;
  const text = `History: ${points.length} records from ${day(points[0].seconds)} to ${day(points.at(-1).seconds)}, ${si(d3.min(energies), "J")} to ${si(d3.max(energies), "J")} per call`
    + `${accepted.length ? `; a change was accepted on ${accepted.map((one) => one.at.toISOString().slice(0, 10)).join(", ")}` : ""}${now.energy ? `; now ${si(now.energy, "J")}` : ""}.`;
  draw(place, text, (width) => Plot.plot({
    width, height: 210, marginLeft: 62, marginBottom: 28, marginTop: 18, marginRight: 16,
    x: { type: "utc", label: null, ticks: Math.max(2, Math.floor(width / 110)), nice: true }, y: { label: null, tickFormat: (value) => si(value, "J"), ticks: 5, grid: true, nice: true },
    marks: [
      base && tolerance ? Plot.rectY([base], { y1: base * (1 - tolerance), y2: base * (1 + tolerance), fill: "var(--band)" }) : null,
      base ? Plot.ruleY([base], { stroke: "var(--mute)", strokeDasharray: "4 3" }) : null,
      Plot.ruleX(accepted, { x: "at", stroke: "var(--new)", strokeWidth: 1.5 }),
      Plot.text(accepted, { x: "at", frameAnchor: "top", dy: -14, text: () => "accepted", fill: "var(--new)" }),
      Plot.line(points, { x: "at", y: "energy", z: "epoch", stroke: "var(--line)" }),
      Plot.dot(points, { x: "at", y: "energy", r: 3, fill: (d) => (d.epoch === last ? "var(--accent)" : "var(--mute)"), title: (d) => `${day(d.seconds)} ${d.commit}: ${si(d.energy, "J")}` }),
      now.error ? Plot.ruleX([now], { x: (d) => new Date(d.at * 1000), y1: (d) => d.energy - d.error, y2: (d) => d.energy + d.error, stroke: tone(status) }) : null,
      now.energy ? Plot.dot([now], { x: (d) => new Date(d.at * 1000), y: "energy", r: 6, symbol: symbol(status), rotate: status === "improvement" ? 180 : 0, fill: tone(status), title: (d) => `this run: ${si(d.energy, "J")}` }) : null,
    ],
    color: { type: "identity" }, symbol: { type: "identity" },
  }));
  return text;
}

function historyPoints(history) {
  const sum = (steps) => Array.from(d3.cumsum(steps));
  const parts = ([first, ...others]) => [first, ...others.map((part) => first * (1 + part / 1000))];
  const at = sum(history.at), epoch = sum(history.epoch || at.map(() => 0)), energy = parts(history.energy), time = parts(history.time);
  return at.map((seconds, i) => ({ seconds, at: new Date(seconds * 1000), epoch: epoch[i], energy: energy[i], time: time[i], commit: history.commit[i] }));
}

/** This run's figure, and the baseline's: they follow from the columns of the table. */
function pointsOf(detail, rows, i) {
  if (!detail.now) return {};
  const now = { at: detail.now.at, energy: rows.energy[i], error: rows.error[i], time: rows.time[i], change: rows.change[i] };
  const then = now.change === null || now.change <= -1 ? null : { energy: now.energy / (1 + now.change), time: "time" in detail.now ? now.time / (1 + detail.now.time) : null };
  return { ...now, then, sessions: (detail.now.sessions || []).map(([energy, time]) => ({ energy, time })) };
}

/** Energy = time × power: which of them moved. A dashed curve joins points of equal energy. */
function powerChart(place, detail, now, status) {
  const past = detail.history ? historyPoints(detail.history).filter((point) => point.time) : [];
  const then = now.then?.time ? now.then : null, { sessions } = now;
  const watts = (point) => point.energy / point.time;
  const all = [now, ...past, ...(then ? [then] : []), ...sessions];
  const [fast, slow] = d3.extent(all, (point) => point.time), [low, high] = d3.extent(all, watts);
  const padX = (slow - fast) * 0.15 || slow * 0.1, padY = (high - low) * 0.15 || high * 0.1;
  const domainX = [Math.max(0, fast - padX), slow + padX], domainY = [Math.max(0, low - padY), high + padY];
  const curve = (energy) => d3.range(61).map((k) => domainX[0] + ((domainX[1] - domainX[0]) * k) / 60).filter((x) => x > 0)
    .map((x) => ({ x, y: energy / x })).filter((point) => point.y >= domainY[0] && point.y <= domainY[1]);
  const text = `Time against power: now ${si(now.time, "s")} at ${si(watts(now), "W")}${then ? `; baseline ${si(then.time, "s")} at ${si(watts(then), "W")}` : ""}.`;
  draw(place, text, (width) => Plot.plot({
    width, height: 210, marginLeft: 62, marginBottom: 36, marginTop: 18, marginRight: 20,
    x: { domain: domainX, label: "time per call", labelAnchor: "center", labelArrow: "none", tickFormat: (value) => si(value, "s"), ticks: Math.max(2, Math.floor(width / 90)) },
    y: { domain: domainY, label: "power", labelArrow: "none", tickFormat: (value) => si(value, "W"), ticks: 5, grid: true },
    marks: [
      Plot.line(curve(now.energy), { x: "x", y: "y", stroke: tone(status), strokeOpacity: 0.6, strokeDasharray: "4 3" }),
      then ? Plot.line(curve(then.energy), { x: "x", y: "y", stroke: "var(--mute)", strokeOpacity: 0.6, strokeDasharray: "4 3" }) : null,
      Plot.dot(past, { x: "time", y: watts, r: 3, fill: "var(--accent)", fillOpacity: 0.6, title: (d) => `${day(d.seconds)}: ${si(d.time, "s")} at ${si(watts(d), "W")}` }),
      Plot.dot(sessions, { x: "time", y: watts, r: 3, stroke: tone(status) }),
      then ? Plot.arrow([{}], { x1: then.time, y1: watts(then), x2: now.time, y2: watts(now), stroke: tone(status), strokeOpacity: 0.7, insetEnd: 7, headLength: 7 }) : null,
      then ? Plot.dot([then], { x: "time", y: watts, r: 4, fill: "var(--back)", stroke: "var(--mute)", strokeWidth: 2, title: () => "baseline" }) : null,
      Plot.dot([now], { x: "time", y: watts, r: 6, symbol: symbol(status), rotate: status === "improvement" ? 180 : 0, fill: tone(status), title: () => "this run" }),
    ],
    color: { type: "identity" }, symbol: { type: "identity" },
  }));
  return text;
}
