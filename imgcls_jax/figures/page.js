for (const table of document.querySelectorAll("table.sorts")) {
  table.tHead.addEventListener("click", (event) => {
    const cell = event.target.closest("th");
    if (!cell) return;
    const down = cell.getAttribute("aria-sort") === "ascending";
    for (const other of cell.parentNode.cells) other.removeAttribute("aria-sort");
    cell.setAttribute("aria-sort", down ? "descending" : "ascending");
    const value = (row) => row.cells[cell.cellIndex].dataset.value ?? row.cells[cell.cellIndex].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [value(a), value(b)], order = x - y;
      return (Number.isNaN(order) ? x.localeCompare(y) : order) * (down ? -1 : 1);
    });
    table.tBodies[0].append(...rows);
  });
}
for (const heat of document.querySelectorAll(".heat")) {
  const data = JSON.parse(heat.querySelector("script").textContent), image = heat.querySelector("img");
  image.addEventListener("pointermove", (event) => {
    const box = image.getBoundingClientRect(), n = data.names.length;
    const at = (offset, size) => Math.min(n - 1, Math.max(0, Math.floor(offset / size * n)));
    const row = at(event.clientY - box.top, box.height), column = at(event.clientX - box.left, box.width);
    heat.querySelector("output").textContent =
      `${data.names[row]} taken for ${data.names[column]}: ${data.counts[row][column]}`;
  });
}
