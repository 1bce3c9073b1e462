"use strict";
/* What an opened row shows: why, whether to believe it, what to do, and its charts. */

function command(text) {
  const code = el("code", { tabindex: 0 }, text);
  return el("div", { class: "command" }, code, el("button", { type: "button", class: "copy" }, "Copy"));
}

/** Copy without asking for anything: the clipboard where a page from disk may use it, else a selection. */
async function copy(button) {
  const code = button.parentElement.querySelector("code");
  let copied = false;
  try {
    await navigator.clipboard.writeText(code.textContent);
    copied = true;
  } catch {
    const range = document.createRange();
    range.selectNodeContents(code);
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    copied = document.execCommand("copy");
  }
  button.textContent = copied ? "Copied" : "Selected: press Ctrl+C";
  setTimeout(() => (button.textContent = "Copy"), 2000);
}

function table(caption, heads, lines, kind = "figures") {
  return el("table", { class: kind },
    el("caption", {}, caption),
    el("thead", {}, el("tr", {}, heads.map((head, k) => (head ? el("th", { scope: "col", class: lines[0]?.[k] instanceof Node ? "words" : null }, head) : el("td"))))),
    el("tbody", {}, lines.map(([first, ...cells]) => el("tr", {}, el("th", { scope: "row" }, words(first)), cells.map((cell) => (cell instanceof Node ? el("td", { class: "words" }, cell) : el("td", {}, String(cell))))))));
}

function share(part) {
  const bar = el("span", { class: "share" }, el("i"));
  bar.firstChild.style.width = `${Math.round(100 * part)}%`;
  return el("span", { class: "shared" }, bar, `${d3.format(".1f")(100 * part)}%`);
}

function workTables(detail) {
  const parts = [];
  if (detail.work) {
    parts.push(el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Work by module" },
      table("Work by module", ["module", "what changed", "share", "FLOPs", "bytes", "kernels", "calls"],
        detail.work.map(([module, grew, calls, part, flops, bytes, kernels]) => [module, words(grew, { class: grew ? "grew" : "" }), share(part), flops, bytes, kernels, d3.format(",")(calls)]))));
  }
  if (detail.classes) {
    parts.push(table("Work by operator", ["operator", "FLOPs", "bytes", "kernels"], detail.classes.map(([name, ...cells]) => [name, ...cells.map(String)])));
  }
  return parts;
}

function chart(title) {
  const place = el("div", { class: "chart" });
  return [el("figure", {}, el("figcaption", {}, title), place), place];
}

/** Fill the cell of an opened row. */
async function fillDetail(cell, rows, i) {
  const detail = await rows.detail(i), status = rows.status[i], now = pointsOf(detail, rows, i);
  const why = [], believe = [], charts = [], drawn = [];
  why.push(el("p", { class: "why" }, words(detail.reason || "")));
  if (detail.figures) why.push(table("Per call", ["", "baseline", "now", "change"], detail.figures, "figures per-call"));
  if (detail.facts) {
    believe.push(el("h4", {}, "Can I believe it?"),
      el("dl", { class: "facts" }, detail.facts.map(([label, text]) => el("div", {}, el("dt", {}, label), el("dd", {}, words(text))))));
  }
  if (detail.remedies) {
    believe.push(el("h4", {}, "What to do"), detail.remedies.flatMap(([text, commands]) => [el("p", { class: "do" }, text), ...commands.map(command)]));
  }
  if (detail.history) {
    const [figure, place] = chart("History: energy per call of each record in the baselines, and now");
    charts.push(figure);
    drawn.push(() => historyChart(place, detail, now, status, rows.tolerance[i]));
  }
  if (now.energy && (detail.history || now.then?.time || now.sessions.length)) {
    const [figure, place] = chart("Time against power: energy is their product");
    charts.push(figure);
    drawn.push(() => powerChart(place, detail, now, status));
  }
  const facts = [rows.nodeid[i], rows.name[i] === "call" ? null : rows.name[i], detail.place, rows.machine[i]].filter(Boolean);
  cell.replaceChildren(el("div", { class: "inside" },
    el("p", { class: "where" }, facts.flatMap((fact, k) => [k ? " · " : null, words(fact)]), " ", el("a", { href: `#${encodeURIComponent(rows.anchor(i))}` }, "link")),
    el("div", { class: "halves" }, el("div", {}, why), el("div", {}, believe)),
    el("div", { class: "halves charts" }, charts), workTables(detail)));
  for (const paint of drawn) paint();
}
