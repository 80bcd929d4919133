
// Every header of a table becomes a button that sorts by its column. Without scripts the tables are as they were made.
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  const read = (row, column) => (row.cells[column].querySelector(".value") || row.cells[column]).textContent.trim();
  const number = text => parseFloat(text.replace("\u2212", "-"));
  heads.forEach((head, column) => {
    const words = column === 0 || head.classList.contains("text");
    const name = head.querySelector(".name") || head, button = document.createElement("button");
    button.type = "button";
    button.append(...name.childNodes);
    name.append(button);
    button.addEventListener("click", () => {
      // numbers: the highest first; words: from A; then the other way round
      const first = words ? "ascending" : "descending", other = words ? "descending" : "ascending";
      const order = head.getAttribute("aria-sort") === first ? other : first;
      const sign = order === "ascending" ? 1 : -1;
      const rows = [...body.rows].sort((a, b) => {
        const [x, y] = [read(a, column), read(b, column)];
        if (words) return sign * x.localeCompare(y, "en", { numeric: true });
        const [p, q] = [number(x), number(y)];
        return isNaN(p) || isNaN(q) ? isNaN(p) - isNaN(q) : sign * (p - q);  // what is missing stays last
      });
      heads.forEach(each => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      body.append(...rows);
    });
  });
}
