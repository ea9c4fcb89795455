(() => {
  const $ = (id) => document.getElementById(id);

  // Light and dark.
  const theme = $("theme");
  theme.hidden = false;
  theme.addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme
      ? root.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });

  // Reading values off the curves.
  const holder = $("curve-data");
  const charts = holder ? JSON.parse(holder.textContent) : [];
  const tip = $("tip");
  const show = (value, unit) => (unit === "%" ? (100 * value).toFixed(1) + " %" : String(Number(value.toPrecision(3))));
  for (const card of document.querySelectorAll(".curve-card")) {
    const chart = charts[Number(card.dataset.chart)];
    const svg = card.querySelector("svg");
    const cursor = svg.querySelector(".cursor");
    const steps = chart.x;
    const first = steps[0];
    const span = Math.max(steps[steps.length - 1], first + 1) - first;
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * chart.width;
      const wanted = first + ((x - chart.left) / (chart.right - chart.left)) * span;
      let i = 0;
      steps.forEach((step, j) => { if (Math.abs(step - wanted) < Math.abs(steps[i] - wanted)) i = j; });
      const at = chart.left + ((steps[i] - first) / span) * (chart.right - chart.left);
      cursor.setAttribute("x1", at);
      cursor.setAttribute("x2", at);
      tip.replaceChildren();
      const head = document.createElement("b");
      head.textContent = "step " + steps[i].toLocaleString("en");
      tip.append(head);
      for (const series of chart.series) {
        if (series.y[i] === null) continue;
        const line = document.createElement("div");
        line.textContent = series.label + " " + show(series.y[i], chart.unit);
        tip.append(line);
      }
      tip.hidden = false;
      tip.style.left = Math.max(4, Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)) + "px";
      tip.style.top = Math.max(4, event.clientY - tip.offsetHeight - 12) + "px";
    });
    svg.addEventListener("pointerleave", () => { tip.hidden = true; });
  }

})();
