// Click a heading to sort its table by that column: numbers by value, words by alphabet; again, the other way.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text.replace("%", "").replace("−", "-"));
    return Number.isNaN(number) ? text : number;
  };
  table.querySelectorAll("th button").forEach((button) => {
    const heading = button.parentElement;
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.querySelectorAll("th")) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const compare = (a, b) => (a === "") - (b === "") || (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
      const rows = [...body.rows].sort((a, b) => compare(value(a, heading.cellIndex), value(b, heading.cellIndex)));
      body.append(...rows);
    });
  });
}
