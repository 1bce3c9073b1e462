"use strict";
/* The table of all measurements: DataTables sorts, filters, searches and pages them. It reads strings as markup, so cells are nodes. */

const PAGE = 100;
DataTable.ext.errMode = "throw";
const knownFirst = (sign) => (a, b) => (a === null) - (b === null) || sign * (a - b);
DataTable.type("known", { order: { asc: knownFirst(1), desc: knownFirst(-1) } });

/** Numbers in place of texts, in their order; null where there is none. */
function ranks(texts) {
  const { compare } = new Intl.Collator("en", { numeric: true });
  const ranked = new Map([...new Set(texts)].sort(compare).map((text, rank) => [text, rank]));
  return texts.map((text) => (text === "" ? null : ranked.get(text)));
}

/** The columns that have anything to show. */
function columnsOf(rows) {
  const all = d3.range(rows.count), some = (column) => column.some((value) => value !== null && value !== "");
  const estimated = rows.machine.every((machine) => machine.endsWith("-estimated"));
  const gravity = (i) => ["fails", "warns", "accepted", "none"].indexOf(rows.effect[i]) * 1e6 + rows.rank.get(rows.status[i]) * 1e4 - Math.min(9999, Math.abs(rows.change[i] ?? rows.work_change[i] ?? 0) * 1e3);
  const verdict = (i) => el("span", {}, icon(rows.status[i]), rows.effect[i] === "warns" ? `${rows.status[i]} (warns)` : rows.status[i]);
  const name = (i) => el("button", { type: "button", class: "open", "aria-expanded": "false", "aria-controls": `detail-${i}` },
    words(shortened(rows.module[i], 120), { class: "module" }), words(shortened(rows.label(i), 240), { class: "function" }));
  const text = (i) => [rows.nodeid[i], rows.name[i], rows.machine[i], rows.warnings[i], rows.status[i]].join(" ").replace(/\s+/g, " ");
  return [
    { key: "status", title: "verdict", order: all.map(gravity), display: verdict },
    { key: "test", title: "measurement", cellType: "th", order: ranks(all.map((i) => `${rows.nodeid[i]}\n${rows.name[i]}`)), display: name },
    { key: "energy", title: estimated ? "energy per call, estimated" : "energy per call", figure: true, if: some(rows.energy) },
    { key: "time", title: "time", figure: true, minor: true, if: some(rows.time) },
    { key: "co2e", title: "CO2e per 1,000", figure: true, minor: true, if: some(rows.co2e) },
    { key: "change", title: "change", figure: true, if: some(rows.change) },
    { key: "detectable", title: "detectable", figure: true, minor: true, if: some(rows.detectable) },
    { key: "work", title: "FLOPs", figure: true, if: some(rows.work) && !some(rows.energy) },
    { key: "work_change", title: "work", figure: true, minor: some(rows.energy), if: some(rows.work) },
    { key: "machine", title: "machine", minor: true, if: rows.machines > 1 },
    { key: "warnings", title: "warnings", minor: true, if: some(rows.warnings) },
  ].filter((column) => column.if !== false).map(({ key, title, figure, minor, cellType = "td", ...own }) => {
    const display = own.display ?? (figure ? (i) => new Text(rows[`${key}_text`][i] || "–") : (i) => words(shortened(rows[key][i], 80)));
    const order = own.order ?? (figure ? rows[key] : ranks(rows[key]));
    return {
      title, cellType, className: [key, figure && "figure", minor && "minor"].filter(Boolean).join(" "),
      type: "known", orderSequence: figure ? ["desc", "asc"] : ["asc", "desc"], data: null, searchable: key === "test",
      render: (i, use) => (use === "display" ? display(i) : use === "filter" ? DataTable.util.escapeHtml(text(i)) : order[i]),
    };
  });
}

/** Buttons of the verdicts that there are: a pressed one leaves its rows. */
function chips(rows, changed) {
  const tally = d3.rollup(rows.status, (group) => group.length, (status) => status), pressed = new Set();
  return el("div", { class: "filters", id: "filters", role: "group", "aria-label": "Filter by verdict" },
    rows.statuses.filter(([status]) => tally.has(status)).map(([status, meaning]) =>
      el("button", { type: "button", class: `chip s-${slug(status)}`, "aria-pressed": "false", "data-status": status, title: meaning, onclick: ({ currentTarget: chip }) => {
        chip.ariaPressed = String(!pressed.delete(status) && Boolean(pressed.add(status)));
        changed(pressed);
      } }, icon(status), `${status} `, el("b", {}, d3.format(",")(tally.get(status))))));
}

/** Make the table; return what opens the rows that a fragment names: a test's id, with its measurement's name and machine where it has several. */
function measurementsTable(rows) {
  const all = d3.range(rows.count);
  const filters = chips(rows, (pressed) => table.search.fixed("status", (_, i) => !pressed.size || pressed.has(rows.status[i])).draw());
  const table = new DataTable("#rows", {
    data: all, columns: columnsOf(rows), order: [[0, "asc"]], pageLength: PAGE,
    autoWidth: false, orderClasses: false, orderDescReverse: false, orderMulti: false, typeDetect: false,
    layout: {
      top2Start: { search: { text: "Search", placeholder: "test, machine, warning" } }, top2End: filters,
      topStart: { info: { callback: (...told) => told.at(-1).replace(/^(.+) of \1 /, "$1 ").replace(/, page 1 of 1 ?$/, "") } }, topEnd: null,
      bottomStart: null, bottomEnd: null, bottom: { paging: { firstLast: false } },
    },
    language: {
      entries: { _: "measurements", 1: "measurement" }, info: "_TOTAL_ of _MAX_ _ENTRIES-MAX_, page _PAGE_ of _PAGES_",
      infoEmpty: "0 of _MAX_ _ENTRIES-MAX_", infoFiltered: "", zeroRecords: "No measurement matches.",
      paginate: { previous: "Previous", next: "Next" }, aria: { orderableRemove: ": Activate to invert sorting" },
    },
    createdRow: (tr, i) => {
      tr.classList.add(`s-${slug(rows.status[i])}`, `e-${rows.effect[i]}`);
      tr.dataset.row = i;
      tr.querySelector("th").scope = "row";
    },
  });
  const expand = (i, open = true) => {
    const row = table.row(i);
    if (row.child()) return row.child[open ? "show" : "hide"]();
    const place = el("div", { id: `detail-${i}` });
    row.child(place, "detail").show();
    fillDetail(place, rows, i);
  };
  const told = () => table.rows({ page: "current" }).every(function () {
    this.node().querySelector(".open").ariaExpanded = String(this.child.isShown());
  });
  table.on("draw childRow", told).on("page", () => document.getElementById("all-title").scrollIntoView());
  const node = table.table().node();
  document.querySelector(".dt-search").role = "search";
  node.addEventListener("keydown", (event) => {  // DataTables sorts with Enter only
    if (event.key === " " && event.target.matches(".dt-column-order")) { event.preventDefault(); event.target.click(); }
  });
  node.addEventListener("click", (event) => {
    const row = event.target.closest("tr[data-row]"), i = Number(row?.dataset.row);
    if (row && !event.target.closest("a") && !String(getSelection())) expand(i, !table.row(i).child.isShown());
  });
  addEventListener("beforeprint", () => table.page.len(500).draw());
  addEventListener("afterprint", () => table.page.len(PAGE).draw());
  return (id) => {
    const named = all.filter((i) => rows.nodeid[i] === id || rows.anchor(i) === id), left = () => table.rows({ search: "applied" }).indexes().toArray();
    if (!named.length) return false;
    if (!left().some((i) => named.includes(i))) {
      for (const chip of filters.querySelectorAll("[aria-pressed=true]")) chip.click();
      document.querySelector(".dt-search input").value = "";
      table.search("").draw();
    }
    for (const i of named.slice(0, 20)) expand(i);
    const order = left(), first = named.find((i) => order.includes(i));
    table.page(Math.floor(order.indexOf(first) / table.page.len())).draw("page");
    const row = table.row(first).node();
    row.scrollIntoView({ block: "start" });
    row.querySelector(".open").focus({ preventScroll: true });
    return true;
  };
}
