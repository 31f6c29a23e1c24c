"use strict";
(() => {
  const sayIn = (inside, words) => {
    const place = inside.closest("figure").querySelector(".says");
    if (place) place.textContent = words;
  };
  for (const mark of document.querySelectorAll("[data-words]")) {
    const say = () => sayIn(mark, mark.dataset.words);
    mark.addEventListener("pointerenter", say);
    mark.addEventListener("click", say);
  }
  const holder = document.getElementById("data");
  const all = holder ? JSON.parse(holder.textContent) : {};
  for (const svg of document.querySelectorAll("[data-grid]")) {
    const grid = all[svg.dataset.grid];
    const frame = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    frame.setAttribute("class", "chosen");
    frame.setAttribute("width", grid.width - 1);
    frame.setAttribute("height", grid.height - 1);
    let step = 0, row = 0;
    const codeAt = (line, at) => {
      for (const [code, count] of line.runs) { if (at < count) return code; at -= count; }
      return "r";
    };
    const wordsOf = (line, code) => {
      if (!/^\d+$/.test(code)) return grid.words[code];
      const share = line.tokens ? ` (${Math.round(100 * code / line.tokens)} %)` : "";
      return `${code} of ${line.tokens} tokens computed${share}, the others kept`;
    };
    const show = () => {
      const line = grid.rows[row];
      frame.setAttribute("x", grid.left + step * grid.width);
      frame.setAttribute("y", grid.top + row * grid.height);
      if (!frame.parentNode) svg.append(frame);
      sayIn(svg, `Step ${step} of 0 to ${grid.steps - 1}, ${line.name}: ${wordsOf(line, codeAt(line, step))}.`);
    };
    const move = (event) => {
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const across = Math.floor(((event.clientX - box.left) * scale - grid.left) / grid.width);
      const down = Math.floor(((event.clientY - box.top) * scale - grid.top) / grid.height);
      if (across < 0 || across >= grid.steps || down < 0 || down >= grid.rows.length) return;
      [step, row] = [across, down];
      show();
    };
    svg.addEventListener("pointermove", move);
    svg.addEventListener("click", move);
    svg.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
      if (!by) return;
      event.preventDefault();
      step = Math.min(grid.steps - 1, Math.max(0, step + by[0]));
      row = Math.min(grid.rows.length - 1, Math.max(0, row + by[1]));
      show();
    });
  }
})();
