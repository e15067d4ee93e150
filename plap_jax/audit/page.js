"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const [table, filter, flagged, size, status] = ["table", "filter", "flagged", "size", "status"].map(byId);
  const [previous, next] = [byId("previous"), byId("next")];
  const body = table.tBodies[0];
  const headers = [...table.tHead.querySelectorAll("[aria-sort]")];
  const collator = new Intl.Collator(undefined, { numeric: true });

  // Rows leave the document and come back a page at a time: thousands of them stay quick.
  const all = [...body.rows].map((element) => ({
    element,
    text: [...element.querySelectorAll("bdi, q, .group")].map((part) => part.textContent).join("\n").toLowerCase(),
    isFlagged: element.classList.contains("flagged"),
    isTested: element.dataset.p !== undefined,
    flag: element.querySelector(".flag"),
    cut: element.querySelector(".whisker .threshold"),
  }));
  let key = "score";
  let descending = true;
  let start = 0;
  let shown = all;

  const compare = (a, b) => {
    const [x, y] = [a.element.dataset[key], b.element.dataset[key]];
    if (x === undefined || y === undefined) return (x === undefined) - (y === undefined); // at the end, either way
    const order = key === "name" ? collator.compare(x, y) : Number(x) - Number(y);
    return descending ? -order : order;
  };

  const draw = () => {
    const end = Math.min(start + Number(size.value), shown.length);
    body.replaceChildren(...shown.slice(start, end).map((row) => row.element));
    body.querySelectorAll("img").forEach((image) => (image.loading = "eager")); // or paper misses those out of sight
    const of = shown.length === all.length ? "" : `, of ${all.length.toLocaleString("en")} in all`;
    const range = `Images ${(start + 1).toLocaleString("en")} to ${end.toLocaleString("en")}`;
    status.textContent = shown.length ? `${range} of ${shown.length.toLocaleString("en")}${of}` : "No image matches.";
    previous.disabled = start === 0;
    next.disabled = end === shown.length;
  };

  const select = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    const chosen = (row) => words.every((word) => row.text.includes(word)) && (row.isFlagged || !flagged?.checked);
    shown = all.filter(chosen).sort(compare);
    start = 0;
    draw();
  };

  const turn = (step) => {
    start += step * Number(size.value);
    draw();
    byId("images").scrollIntoView();
  };

  table.tHead.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    descending = key === button.dataset.key ? !descending : button.dataset.first === "descending";
    key = button.dataset.key;
    const order = descending ? "descending" : "ascending";
    headers.forEach((header) => header.setAttribute("aria-sort", header.contains(button) ? order : "none"));
    select();
  });
  byId("tools").addEventListener("submit", (event) => event.preventDefault());
  [filter, flagged, size].forEach((control) => control?.addEventListener("input", select));
  previous.addEventListener("click", () => turn(-1));
  next.addEventListener("click", () => turn(1));

  // The threshold: what scores at least as high and was tested is flagged, in the table and in both pictures.
  const position = byId("position");
  if (position) {
    const positions = JSON.parse(position.dataset.positions);
    const origin = position.getAttribute("value"); // a browser may bring back where it was left
    const [back, cut] = [byId("back"), byId("cut")];
    const points = [...document.querySelectorAll("#points use")];
    const isAbove = (at, score) => at.score !== null && score !== undefined && Number(score) >= at.score;
    const place = (line, x) => ["x1", "x2"].forEach((end) => line?.setAttribute(end, x));

    const cutAt = (at) => {
      cut.setAttribute("visibility", at.score === null ? "hidden" : "visible");
      byId("above-from").setAttribute("x", at.score === null ? cut.ownerSVGElement.viewBox.baseVal.width : at.x);
      if (at.score === null) return;
      place(cut.querySelector("line"), at.x);
      const text = cut.querySelector("text");
      text.setAttribute("x", at.x);
      text.setAttribute("text-anchor", at.x > 0.7 * cut.ownerSVGElement.viewBox.baseVal.width ? "end" : "middle");
      text.querySelector("tspan").textContent = at.number;
    };

    const mark = (at) => {
      for (const row of all) {
        row.isFlagged = row.isTested && isAbove(at, row.element.dataset.score);
        row.element.classList.toggle("flagged", row.isFlagged);
        if (row.flag) row.flag.hidden = !row.isFlagged;
        row.cut?.setAttribute("visibility", at.score === null ? "hidden" : "visible");
        if (at.score !== null) place(row.cut, at.whisker);
      }
      for (const point of points) {
        const flagged = isAbove(at, point.dataset.score);
        point.classList.toggle("flagged", flagged);
        point.setAttribute("href", flagged ? "#diamond" : "#dot");
      }
    };

    const move = () => {
      const at = positions[position.value];
      position.setAttribute("aria-valuetext", (byId("told").textContent = at.words));
      document.querySelectorAll("[data-told]").forEach((one) => (one.textContent = at.n.toLocaleString("en")));
      if (cut) cutAt(at);
      mark(at);
      byId("n-flagged").textContent = all.filter((row) => row.isFlagged).length.toLocaleString("en");
      back.disabled = position.value === origin;
      if (flagged.checked) select();
    };

    position.addEventListener("input", move);
    back.addEventListener("click", () => {
      position.value = origin;
      position.focus();
      move();
    });
    byId("slide").hidden = false;
    position.value = origin;
    move();
  }

  byId("tools").hidden = byId("pager").hidden = false;
  select();
})();
