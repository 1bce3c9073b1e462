"use strict";
/* Elements from text, never from markup; the packed data; numbers of axes. */

/** Make an element. Children that are strings become text. */
function el(name, properties = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

/** Text whose direction is its own: a name from right to left does not turn the line around. */
const words = (text, properties = {}) => el("bdi", properties, text);

const slug = (status) => status.replaceAll(" ", "-");

function icon(status) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", `#icon-${slug(status)}`);
  svg.append(use);
  return svg;
}

/** Leave out the middle of a name. */
function shortened(text, most) {
  return text.length <= most ? text : `${text.slice(0, Math.ceil(most / 2) - 1)}…${text.slice(-Math.floor(most / 2))}`;
}

/** Read one line of the pack: base64, deflated, JSON. */
async function unpack(line) {
  const binary = atob(line);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return JSON.parse(await new Response(stream).text());
}

/** The rows: columns of equal values are written as one, frequent words as numbers. */
class Rows {
  constructor(main, lines) {
    this.count = main.rows;
    this.statuses = main.statuses;
    this.rankings = main.rankings;
    this.chunk = main.chunk;
    this.lines = lines;
    this.chunks = new Map();
    for (const [name, column] of Object.entries(main.columns)) {
      this[name] = Array.isArray(column) ? column : new Array(this.count).fill(column.all);
    }
    for (const name of ["module", "name", "machine", "effect", "warnings"]) {
      this[name] = this[name].map((number) => main.words[number]);
    }
    this.status = this.status.map((number) => main.statuses[number][0]);
    this.rank = new Map(main.statuses.map(([status], number) => [status, number]));
    this.nodeid = this.test.map((test, i) => (test ? `${this.module[i]}::${test}` : this.module[i]));
    this.machines = new Set(this.machine).size;
  }

  /** The test's id without its file, and the measurement's name where it has one. */
  label(i) {
    const test = this.test[i] || this.module[i];
    return this.name[i] === "call" ? test : `${test} · ${this.name[i]}`;
  }

  /** What opens this row as the fragment of an address. */
  anchor(i) {
    const named = this.name[i] === "call" ? this.nodeid[i] : `${this.nodeid[i]} · ${this.name[i]}`;
    return this.machines > 1 ? `${named} @ ${this.machine[i]}` : named;
  }

  async detail(i) {
    const number = Math.floor(i / this.chunk);
    if (!this.chunks.has(number)) this.chunks.set(number, unpack(this.lines[number + 1]));
    return (await this.chunks.get(number))[i % this.chunk];
  }
}

/** 0.0282, "J" → "28.2 mJ". */
function si(value, unit) {
  if (value === 0) return `0 ${unit}`;
  const text = d3.format(".3~s")(value);
  const prefix = /[^\d.e+−-]$/.test(text) ? text.slice(-1) : "";
  return `${prefix ? text.slice(0, -1) : text} ${prefix}${unit}`;
}

/** The ticks of a logarithmic axis that have room: powers of ten, and between them where they are far apart. */
function logTicks([low, high], width) {
  if (high / low < 12) return d3.ticks(low, high, Math.floor(width / 110));
  const powers = d3.range(Math.floor(Math.log10(low)), Math.ceil(Math.log10(high)) + 1), apart = width / Math.log10(high / low);
  const steps = apart > 260 ? [1, 2, 5] : apart > 140 ? [1, 3] : [1];
  const ticks = powers.flatMap((power) => steps.map((step) => step * 10 ** power)).filter((tick) => tick >= low && tick <= high);
  const every = Math.ceil((ticks.length * 70) / width);
  return ticks.filter((_, k) => k % every === 0);
}

const day = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10);
