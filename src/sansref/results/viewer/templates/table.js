
// Tables that are sorted by the headings pressed.

/** A table whose heading buttons sort it: the better end first, then the other, then the order it was given in. */
function makeSortable(table) {
  const body = table.tBodies[0];
  const given = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const first = head.dataset.better === "higher" ? "descending" : "ascending";
    const second = first === "ascending" ? "descending" : "ascending";
    const next = new Map([[null, first], [first, second], [second, null]]);
    head.querySelector("button").addEventListener("click", () => {
      const order = next.get(head.getAttribute("aria-sort"));
      for (const other of heads) other.removeAttribute("aria-sort");
      if (order) head.setAttribute("aria-sort", order);
      body.append(...(order ? sortedRows(given, column, order, head.classList.contains("number")) : given));
      const name = head.querySelector("button").firstChild.textContent.trim();
      byId("sorted").textContent = order ? `Sorted by ${name}, ${order}` : "In the order given";
    });
  });
}

/** Rows in a new array; equal ones keep their order, and those without a value come last in both directions. */
function sortedRows(rows, column, order, numeric) {
  const sign = order === "ascending" ? 1 : -1;
  const value = (row) => row.cells[column].dataset.value;
  const compare = numeric ? (a, b) => Number(a) - Number(b) : (a, b) => a.localeCompare(b, "en", { numeric: true });
  return rows.toSorted((a, b) => {
    if (value(a) === undefined || value(b) === undefined) return (value(a) === undefined) - (value(b) === undefined);
    return sign * compare(value(a), value(b));
  });
}

document.querySelectorAll("table.scores").forEach(makeSortable);
