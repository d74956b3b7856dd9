"use strict";
// Tables that sort by a click on a heading and are searched by words. Without this script they are there all the same.
function value(cell, isNumber) {
  const text = cell.textContent.trim();
  if (!isNumber) return text;
  const number = parseFloat(text.replaceAll(",", "").replace("−", "-"));
  return Number.isNaN(number) ? null : number;
}
function compare(a, b) {
  if (a === null || b === null) return (a === null) - (b === null);
  return typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true });
}
function sort(table, heading, column) {
  const descending = heading.getAttribute("aria-sort") === "ascending";
  for (const other of heading.parentElement.children) other.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const isNumber = heading.classList.contains("n"), body = table.tBodies[0];
  const rows = Array.from(body.rows, (row) => [value(row.cells[column], isNumber), row]);
  rows.sort(([a], [b]) => (descending && a !== null && b !== null ? compare(b, a) : compare(a, b)));
  body.append(...rows.map(([, row]) => row));
}
function addSearch(table, place) {
  const bar = document.createElement("div"), label = document.createElement("label"), told = document.createElement("span");
  const input = document.createElement("input"), rows = Array.from(table.tBodies[0].rows);
  bar.className = "search";
  input.type = "search";
  label.append(table.dataset.search + " ", input);
  told.className = "quiet";
  told.setAttribute("role", "status");
  bar.append(label, told);
  place.before(bar);
  input.addEventListener("input", () => {
    const words = input.value.toLocaleLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = `${row.cells[0].textContent} ${row.cells[1].textContent}`.toLocaleLowerCase(); // names; what else a row tells has others
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    told.textContent = words.length ? `${shown} of ${rows.length}` : "";
  });
}
for (const table of document.querySelectorAll("table[data-search]")) {
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => sort(table, heading, column));
  });
  addSearch(table, table.parentElement);
}
