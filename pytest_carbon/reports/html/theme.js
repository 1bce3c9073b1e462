"use strict";
/* Choose the colours before anything is painted. */
{
  const root = document.documentElement;
  root.classList.add("js");
  try {
    const chosen = localStorage.getItem("pytest-carbon-theme");
    if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  } catch { /* a page from disk may have no storage */ }
}
