"use strict";
/* The table of all measurements: sorted, filtered and searched in memory, a page of it in the document. */

const PAGE = 100;
const EFFECTS = ["fails", "warns", "accepted", "none"];

class Measurements {
  constructor(rows) {
    this.rows = rows;
    this.open = new Set();
    this.statuses = new Set();
    this.query = "";
    this.page = 0;
    this.size = PAGE;
    this.columns = this.present();
    this.sorting = { column: "status", down: false };
    this.keys = new Map();
    this.found = new Map();
    const all = d3.range(rows.count);
    this.text = all.map((i) => [rows.nodeid[i], rows.name[i], rows.machine[i], rows.warnings[i], rows.status[i]].join("\n").toLowerCase());
    for (const i of all) {
      for (const id of new Set([rows.nodeid[i], rows.anchor(i)])) {
        if (!this.found.has(id)) this.found.set(id, []);
        this.found.get(id).push(i);
      }
    }
    this.head = document.querySelector("#rows thead");
    this.body = document.querySelector("#rows tbody");
    this.shown = document.getElementById("shown");
    this.controls();
    this.update();
  }

  /** The columns that have anything to show. */
  present() {
    const rows = this.rows, some = (column) => column.some((value) => value !== null && value !== "");
    return [
      { key: "status", title: "verdict" },
      { key: "test", title: "measurement" },
      { key: "energy", title: "energy per call", figure: true, if: some(rows.energy) },
      { key: "time", title: "time", figure: true, minor: true, if: some(rows.time) },
      { key: "co2e", title: "CO2e per 1,000", figure: true, minor: true, if: some(rows.co2e) },
      { key: "change", title: "change", figure: true, if: some(rows.change) },
      { key: "detectable", title: "detectable", figure: true, minor: true, if: some(rows.detectable) },
      { key: "work", title: "FLOPs", figure: true, if: some(rows.work) && !some(rows.energy) },
      { key: "work_change", title: "work", figure: true, minor: some(rows.energy), if: some(rows.work) },
      { key: "machine", title: "machine", minor: true, if: rows.machines > 1 },
      { key: "warnings", title: "warnings", minor: true, if: some(rows.warnings) },
    ].filter((column) => column.if !== false);
  }

  controls() {
    const rows = this.rows, tally = d3.rollup(rows.status, (group) => group.length, (status) => status);
    document.getElementById("filters").append(...rows.statuses.filter(([status]) => tally.has(status)).map(([status, meaning]) =>
      el("button", { type: "button", class: `chip s-${slug(status)}`, "aria-pressed": "false", "data-status": status, title: meaning, onclick: () => this.filter(status) },
        icon(status), `${status} `, el("b", {}, d3.format(",")(tally.get(status))))));
    let waiting = null;
    const search = document.getElementById("search");
    search.addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => { this.query = search.value; this.page = 0; this.update(); }, 80);
    });
    this.head.append(el("tr", {}, this.columns.map((column) =>
      el("th", { scope: "col", class: this.classes(column), "data-column": column.key },
        el("button", { type: "button", "data-sort": column.key, onclick: () => this.sort(column.key) }, column.title, el("span", { class: "arrow", "aria-hidden": "true" }))))));
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("tr[data-row]");
      if (row && !event.target.closest("a") && !String(getSelection())) this.toggle(Number(row.dataset.row));
    });
    addEventListener("beforeprint", () => { this.size = 500; this.update(); });
    addEventListener("afterprint", () => { this.size = PAGE; this.update(); });
  }

  classes(column) {
    return [column.key, column.figure ? "figure" : "", column.minor ? "minor" : ""].filter(Boolean).join(" ");
  }

  filter(status) {
    if (!this.statuses.delete(status)) this.statuses.add(status);
    this.page = 0;
    this.update();
  }

  sort(column) {
    const same = this.sorting.column === column;
    this.sorting = { column, down: same ? !this.sorting.down : !["status", "test", "machine", "warnings"].includes(column) };
    this.page = 0;
    this.update();
  }

  /** What a column is sorted by; what is unknown comes last, whichever way. */
  key(column) {
    if (!this.keys.has(column)) this.keys.set(column, this.makeKey(column));
    return this.keys.get(column);
  }

  makeKey(column) {
    const rows = this.rows, all = d3.range(rows.count);
    if (column === "status") {
      return all.map((i) => EFFECTS.indexOf(rows.effect[i]) * 1e6 + rows.rank.get(rows.status[i]) * 1e4 - Math.min(9999, Math.abs(rows.change[i] ?? rows.work_change[i] ?? 0) * 1e3));
    }
    if (!["test", "machine", "warnings"].includes(column)) return rows[column];
    const text = column === "test" ? rows.nodeid.map((id, i) => `${id}\n${rows.name[i]}`) : rows[column];
    const { compare } = new Intl.Collator("en", { numeric: true });
    const ranks = new Map([...new Set(text)].sort(compare).map((value, rank) => [value, rank]));
    return text.map((value) => (value === "" ? null : ranks.get(value)));
  }

  /** The rows that are left, in order. */
  select() {
    const terms = this.query.toLowerCase().split(/\s+/).filter(Boolean), { column, down } = this.sorting, key = this.key(column);
    const left = d3.range(this.rows.count).filter((i) =>
      (!this.statuses.size || this.statuses.has(this.rows.status[i])) && terms.every((term) => this.text[i].includes(term)));
    const sign = down ? -1 : 1;
    return left.sort((a, b) => {
      const x = key[a], y = key[b];
      if (x === null || y === null) return (x === null) - (y === null) || a - b;
      return sign * (x - y) || a - b;
    });
  }

  update() {
    this.selected = this.select();
    const pages = Math.max(1, Math.ceil(this.selected.length / this.size));
    this.page = Math.min(this.page, pages - 1);
    for (const th of this.head.querySelectorAll("th")) {
      const sorted = th.dataset.column === this.sorting.column;
      if (sorted) th.setAttribute("aria-sort", this.sorting.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
    for (const chip of document.querySelectorAll("#filters .chip")) chip.setAttribute("aria-pressed", String(this.statuses.has(chip.dataset.status)));
    const format = d3.format(","), first = this.page * this.size, some = this.selected.slice(first, first + this.size);
    this.body.replaceChildren(...some.flatMap((i) => this.row(i)));
    const total = this.selected.length === this.rows.count ? format(this.rows.count) : `${format(this.selected.length)} of ${format(this.rows.count)}`;
    this.shown.textContent = `${total} measurement${this.rows.count === 1 ? "" : "s"}${pages > 1 ? `, page ${this.page + 1} of ${pages}` : ""}`;
    this.navigation(pages);
    for (const i of some) if (this.open.has(i)) this.expand(i);
  }

  navigation(pages) {
    const go = (text, page, disabled) => el("button", { type: "button", disabled, onclick: () => { this.page = page; this.update(); document.getElementById("all-title").scrollIntoView(); } }, text);
    const nav = document.getElementById("pages");
    nav.hidden = pages < 2;
    nav.replaceChildren(go("First", 0, this.page === 0), go("Previous", this.page - 1, this.page === 0), el("span", {}, `${this.page + 1} / ${pages}`), go("Next", this.page + 1, this.page >= pages - 1), go("Last", pages - 1, this.page >= pages - 1));
  }

  row(i) {
    const rows = this.rows, status = rows.status[i], effect = rows.effect[i];
    const cell = (column) => {
      if (column.key === "status") return [icon(status), effect === "warns" ? `${status} (warns)` : status];
      if (column.key === "test") {
        return el("button", { type: "button", class: "open", "aria-expanded": String(this.open.has(i)), "aria-controls": `detail-${i}` },
          words(shortened(rows.module[i], 120), { class: "module" }), words(shortened(rows.label(i), 240), { class: "function" }));
      }
      if (!column.figure) return words(shortened(rows[column.key][i], 80));
      return rows[`${column.key}_text`][i] || "–";
    };
    return el("tr", { "data-row": i, class: `s-${slug(status)} e-${effect}` },
      this.columns.map((column) => el(column.key === "test" ? "th" : "td", { class: this.classes(column), scope: column.key === "test" ? "row" : null }, cell(column))));
  }

  toggle(i) {
    if (this.open.has(i)) this.collapse(i);
    else { this.open.add(i); this.expand(i); }
  }

  async expand(i) {
    const row = this.body.querySelector(`tr[data-row="${i}"]`);
    if (!row || document.getElementById(`detail-${i}`)) return;
    const cell = el("td", { colspan: this.columns.length });
    row.after(el("tr", { class: "detail", id: `detail-${i}` }, cell));
    row.querySelector(".open").setAttribute("aria-expanded", "true");
    await fillDetail(cell, this.rows, i);
  }

  collapse(i) {
    this.open.delete(i);
    document.getElementById(`detail-${i}`)?.remove();
    this.body.querySelector(`tr[data-row="${i}"] .open`)?.setAttribute("aria-expanded", "false");
  }

  /** Open the rows that a fragment names: a test's id, with its measurement's name and machine where it has several. */
  async show(id) {
    const rows = this.found.get(id);
    if (!rows) return false;
    if (!rows.some((i) => this.selected.includes(i))) {
      this.statuses.clear();
      this.query = document.getElementById("search").value = "";
    }
    for (const i of rows.slice(0, 20)) this.open.add(i);
    this.page = Infinity;
    this.update();
    const first = rows.find((i) => this.selected.includes(i));
    this.page = Math.floor(this.selected.indexOf(first) / this.size);
    this.update();
    const row = this.body.querySelector(`tr[data-row="${first}"]`);
    row.scrollIntoView({ block: "start" });
    row.querySelector(".open").focus({ preventScroll: true });
    return true;
  }
}
