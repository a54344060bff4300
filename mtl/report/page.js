"use strict";
// Sorting: numbers by value, all else by the alphabet. Dashes stay last either way.
const number = (text) => {
  const found = text.replace(/\u2212/g, "-").replace(/(\d)[ \u00a0](?=\d)/g, "$1").match(/^[<+\s]*(-?\d+(?:\.\d+)?)/);
  return found ? parseFloat(found[1]) : NaN;
};
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((each) => each.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const text = (row) => row.cells[place].textContent.trim();
    const rows = [...table.tBodies[0].rows];
    rows.sort((one, other) => {
      const [a, b] = [text(one), text(other)], [x, y] = [number(a), number(b)];
      if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      return (down ? -1 : 1) * (Number.isNaN(x) ? a.localeCompare(b) : x - y);
    });
    table.tBodies[0].append(...rows);
  }));
}
// Charts: drawn in the colours of the page, again when those change, and in light ones for printing.
const specs = JSON.parse(document.getElementById("specs")?.textContent ?? "[]");
const dark = matchMedia("(prefers-color-scheme: dark)");
const draw = (onDark) => Promise.all(specs.map((spec, place) => {
  const ink = onDark ? "#e8e8e8" : "#1a1a1a", line = onDark ? "#3a3f47" : "#d4d4d4";
  const config = {
    background: "transparent", font: "system-ui, sans-serif", view: { stroke: line },
    axis: { labelColor: ink, titleColor: ink, gridColor: line, domainColor: line, tickColor: line },
    legend: { labelColor: ink, titleColor: ink, labelLimit: 220 }, header: { labelColor: ink, titleColor: ink, labelLimit: 180 },
    title: { color: ink },
  };
  return vegaEmbed(`#chart-${place}`, spec, { config, actions: false, renderer: "svg", mode: "vega-lite" });
}));
const drawn = () => draw(dark.matches).then(
  () => { document.body.dataset.charts = "drawn"; },
  (error) => { document.body.dataset.charts = "failed"; console.error(error); },
);
drawn();
dark.addEventListener("change", drawn);
addEventListener("beforeprint", () => { document.querySelectorAll("details").forEach((each) => { each.open = true; }); draw(false); });
addEventListener("afterprint", drawn);
