"use strict";
/* Start: the theme's button, the table, the charts when they come into sight. */

function themes() {
  const button = document.getElementById("theme"), root = document.documentElement, order = ["auto", "light", "dark"];
  const say = () => (button.textContent = `Theme: ${root.dataset.theme || "auto"}`);
  button.addEventListener("click", () => {
    const next = order[(order.indexOf(root.dataset.theme || "auto") + 1) % order.length];
    if (next === "auto") delete root.dataset.theme;
    else root.dataset.theme = next;
    try { localStorage.setItem("pytest-carbon-theme", next); } catch { /* not kept */ }
    say();
  });
  say();
}

/** Call once a place is near the window: what nobody looks at is not drawn. */
function whenSeen(place, callback) {
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some((entry) => entry.isIntersecting)) return;
    watcher.disconnect();
    callback();
  }, { rootMargin: "200px" });
  watcher.observe(place);
}

function fragment(hash) {
  const raw = hash.slice(1);
  try { return [raw, decodeURIComponent(raw)]; } catch { return [raw]; }
}

async function start() {
  themes();
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.copy");
    if (button) copy(button);
  });
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => (details.open = true)));
  const lines = document.getElementById("data").textContent.split("\n");
  const rows = new Rows(await unpack(lines[0]), lines);
  const show = measurementsTable(rows);
  const open = () => {
    for (const id of fragment(location.hash)) if (id && show(id)) return;
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (event) => {  // the same fragment again is no change
    const link = event.target.closest('a[href^="#"]');
    if (link && link.getAttribute("href") === location.hash) open();
  });
  const changes = document.getElementById("changes");
  if ([...rows.change, ...rows.work_change].every((change) => change === null)) changes.hidden = document.getElementById("to-changes").hidden = true;
  else whenSeen(changes, () => changesChart(document.getElementById("changes-chart"), document.getElementById("changes-caption"), rows));
  for (const place of document.querySelectorAll("[data-ranking]")) {
    const ranking = rows.rankings[Number(place.dataset.ranking)];
    whenSeen(place.parentElement, () => rankingChart(place, place.parentElement.querySelector("figcaption"), ranking));
  }
  open();
  document.documentElement.dataset.ready = "";
}

start().catch((error) => {
  document.documentElement.classList.remove("js");
  document.getElementById("main").prepend(el("p", { class: "notice warn" }, `This browser cannot show the table and the charts (${error.message}). What fails is listed below.`));
});
