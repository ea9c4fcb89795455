// Every level that the filters leave as one small square: green where it was solved.
const Waffle = (() => {
  const canvas = document.getElementById("waffle");
  const GAP = 1;
  const INK = { optimal: "good", solved: "good", read: "good", success: "fair", not_reached: "warn", illegal: "bad", failed: "bad", misread: "bad", unparsed: "mute", error: "odd" };
  let last = null;
  const layout = (count, width) => {
    for (let side = 13; side > 3; side -= 1) {
      const columns = Math.max(1, Math.floor(width / side));
      if (Math.ceil(count / columns) * side <= 150) return { side, columns };
    }
    return { side: 3, columns: Math.max(1, Math.floor(width / 3)) };
  };
  const draw = (index, good, found, from, count) => {
    if (!canvas) return;
    last = [index, good, found, from, count];
    const style = getComputedStyle(document.documentElement);
    const inks = Object.fromEntries(["good", "fair", "warn", "bad", "mute", "odd", "ink"].map((name) => [name, style.getPropertyValue("--" + name)]));
    const width = canvas.parentElement.clientWidth;
    const { side, columns } = layout(found.length, width);
    const rows = Math.ceil(found.length / columns);
    const ratio = Math.min(2, devicePixelRatio || 1);
    canvas.width = Math.max(1, columns * side * ratio);
    canvas.height = Math.max(1, rows * side * ratio);
    canvas.style.width = columns * side + "px";
    canvas.style.height = rows * side + "px";
    Object.assign(canvas.dataset, { side, columns });
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    found.forEach(([, shown], k) => {
      const verdict = index.verdicts[index.verdict[shown[shown.length - 1]]][0];
      context.globalAlpha = k >= from && k < from + count ? 1 : 0.62;
      context.fillStyle = inks[INK[verdict]];
      context.fillRect((k % columns) * side, Math.floor(k / columns) * side, side - GAP, side - GAP);
    });
  };
  // A colour may stand for several verdicts: what it means is told of those that are there.
  const legend = (index) => {
    const names = new Map();
    index.verdicts.forEach(([key, , title], v) => { if (index.verdict.includes(v)) names.set(INK[key], [...(names.get(INK[key]) || []), title]); });
    document.getElementById("waffle-legend").replaceChildren(...[...names].map(([ink, titles]) => h("span", { class: "w-" + ink }, h("i", {}), titles.join(" or "))));
  };
  const listen = (go) => {
    if (!canvas) return;
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const side = Number(canvas.dataset.side), columns = Number(canvas.dataset.columns);
      const at = Math.floor((event.clientY - box.top) / side) * columns + Math.floor((event.clientX - box.left) / side);
      if (last && at >= 0 && at < last[2].length) go(at);
    });
    const redraw = () => { if (last) draw(...last); };
    addEventListener("resize", redraw);
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  };
  return { draw, legend, listen };
})();
