"use strict";
// Draws levels and plans. Every text goes in as a text node: nothing that a model wrote is ever markup.
const h = (name, attributes, ...children) => fill(document.createElement(name), attributes, children);
const svg = (name, attributes, ...children) => fill(document.createElementNS("http://www.w3.org/2000/svg", name), attributes, children);
const fill = (element, attributes, children) => {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
};

const Level = (() => {
  const TILE = 96;
  const MOVES = { L: [0, -1], D: [1, 0], R: [0, 1], U: [-1, 0] };
  const ARROWS = { L: "←", D: "↓", R: "→", U: "↑" };
  const NAMES = { L: "left", D: "down", R: "right", U: "up" };
  const sign = (action) => ARROWS[action] || action;

  const tileKindsOf = (text, alphabet) => (typeof text === "string" ? [...text].map((c) => alphabet.indexOf(c)) : text);

  const loadStrip = async (uri) => {
    if (!uri) return null;
    const image = new Image();
    image.src = uri;
    await image.decode();
    return image;
  };

  // The picture: a canvas of tiles, over it an SVG with one unit a cell.
  // `size` is how large it is shown, in CSS pixels: what is drawn larger only costs time.
  const picture = (strip, n, tileKinds, label, marks, size) => {
    const px = Math.max(4, Math.min(TILE, Math.ceil(((size || 200) * Math.min(2, devicePixelRatio || 1)) / n)));
    const canvas = h("canvas", { width: n * px, height: n * px, "aria-hidden": "true" });
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    tileKinds.forEach((tileKind, i) => context.drawImage(strip, tileKind * TILE, 0, TILE, TILE, (i % n) * px, Math.floor(i / n) * px, px, px));
    const over = svg("svg", { viewBox: `0 0 ${n} ${n}`, "aria-hidden": "true" });
    for (const mark of marks || []) {
      const c = mark.cell % n, r = Math.floor(mark.cell / n);
      over.append(svg("g", { class: "misread" }, svg("title", {}, mark.title),
        svg("rect", { x: c + 0.06, y: r + 0.06, width: 0.88, height: 0.88, rx: 0.08 }),
        mark.sign ? svg("text", { x: c + 0.12, y: r + 0.34 }, mark.sign) : null));
    }
    const root = h("div", { class: "level", role: "img", "aria-label": label }, canvas, over);
    return { root, over };
  };

  // Shades the cells farther than `reach` king's moves from one: people see them, the model did not.
  const veil = (over, n, from, reach) => {
    const [r0, c0] = [Math.floor(from / n), from % n];
    for (let cell = 0; cell < n * n; cell++) {
      const [r, c] = [Math.floor(cell / n), cell % n];
      if (Math.max(Math.abs(r - r0), Math.abs(c - c0)) > reach) over.append(svg("rect", { class: "unseen", x: c, y: r, width: 1, height: 1 }));
    }
  };

  // The way of a plan on a picture: `show(k)` draws it after its first k actions.
  const walk = (over, n, plan, failed) => {
    const group = svg("g", { class: "plan" });
    over.append(group);
    const at = (cell) => [(cell % n) + 0.5, Math.floor(cell / n) + 0.5];
    const last = plan.p.length;
    const show = (k) => {
      const cells = plan.c.slice(0, k + 1);
      const points = cells.map(at);
      const d = "M" + points.map(([x, y]) => `${x} ${y}`).join("L");
      let [x, y] = points[points.length - 1];
      const parts = [svg("path", { d, class: "casing" }), svg("path", { d, class: "route" }),
        svg("circle", { cx: points[0][0], cy: points[0][1], r: 0.11, class: "start" })];
      plan.p.slice(0, Math.min(k, cells.length - 1)).forEach((action, i) => {
        if (action in MOVES) return;
        const [dx, dy] = points[i + 1];
        parts.push(svg("circle", { cx: dx, cy: dy, r: 0.19, class: "deed" }), svg("text", { x: dx, y: dy + 0.11, class: "deed", "text-anchor": "middle" }, action[0]));
      });
      const action = plan.p[k - 1];
      if (failed && plan.all && k === last) {
        if (plan.c.length <= last && action in MOVES) {
          const [dr, dc] = MOVES[action];
          const end = `M${x} ${y}L${+(x + 0.42 * dc).toFixed(2)} ${+(y + 0.42 * dr).toFixed(2)}`;
          parts.push(svg("path", { d: end, class: "route failed" }));
          x += 0.42 * dc;
          y += 0.42 * dr;
        }
        const cross = `M${x - 0.15} ${y - 0.15}L${x + 0.15} ${y + 0.15}M${x - 0.15} ${y + 0.15}L${x + 0.15} ${y - 0.15}`;
        parts.push(svg("path", { d: cross, class: "cross casing" }), svg("path", { d: cross, class: "cross" }));
      } else if (k < last || (points.length > 1 && action in MOVES)) {
        parts.push(svg("circle", { cx: x, cy: y, r: k < last ? 0.2 : 0.14, class: k < last ? "here" : "end" }));
      }
      group.replaceChildren(...parts);
    };
    show(last);
    return { show, last };
  };

  // A slider, a button and the actions: they move every given walk together.
  const stepper = (walks, plan, outcome) => {
    const last = plan.p.length;
    const chips = last <= 60 ? plan.p.map((action) => h("li", { title: NAMES[action] || action.toLowerCase() }, sign(action))) : [];
    const slider = h("input", { type: "range", min: 0, max: last, value: last, step: 1, "aria-label": "step of the plan" });
    const button = h("button", { type: "button", class: "play", "aria-label": "play the plan step by step" }, "▶");
    const status = h("output", { class: "status" });
    let timer = 0;
    const show = (k) => {
      slider.value = k;
      for (const walk of walks) walk.show(Math.min(k, walk.last));
      chips.forEach((chip, i) => { chip.className = i < k - 1 ? "done" : i === k - 1 ? "now" : ""; });
      const what = k === 0 ? "start" : `step ${k} of ${last}: ${NAMES[plan.p[k - 1]] || plan.p[k - 1].toLowerCase()}`;
      status.value = k === last ? `${last} step${last === 1 ? "" : "s"}${outcome ? ", " + outcome : ""}` : what;
      slider.setAttribute("aria-valuetext", status.value);
    };
    const stop = () => { clearInterval(timer); timer = 0; button.textContent = "▶"; button.setAttribute("aria-label", "play the plan step by step"); };
    const play = () => {
      let k = Number(slider.value) >= last ? 0 : Number(slider.value);
      show(k);
      button.textContent = "❚❚";
      button.setAttribute("aria-label", "pause");
      timer = setInterval(() => {
        k += 1;
        if (k <= last && slider.isConnected) show(k);
        if (k >= last || !slider.isConnected) stop();
      }, 450);
    };
    slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
    button.addEventListener("click", () => (timer ? stop() : play()));
    show(last);
    const rest = plan.t > last ? h("p", { class: "rest" }, plan.all ? `${plan.t - last} more actions were not executed` : `${last} of ${plan.t} actions are drawn`) : null;
    return { root: h("div", { class: "steps" }, h("div", { class: "bar" }, button, slider, status),
      chips.length ? h("ol", { class: "moves" }, chips) : null, rest), play, show };
  };

  // What was recited, field by field, against the truth.
  const recital = (fields, names) => h("dl", { class: "recital" }, fields.map(([name, right, items, truth, numRight, numItems]) => {
    const parts = [];
    if (numItems > 8) parts.push(h("span", { class: "sum" }, `${numRight} of ${numItems} right`), " ");
    else if (!items.length && !right) parts.push(h("span", { class: "sum" }, "not said"), " ");
    if (numItems <= 8 || !right) {
      for (const [text, ok] of items) parts.push(ok ? h("span", {}, text) : h("del", {}, h("bdi", {}, text)), " ");
      if (!right && truth) parts.push(h("ins", {}, truth));
    }
    const word = right ? "right" : "wrong";
    return h("div", { class: word }, h("dt", {}, h("span", { class: "sign", role: "img", "aria-label": word }, right ? "✓" : "✗"), names[name]), h("dd", {}, parts));
  }));

  // Without a whole recited state: the cells that a field names and that are not so.
  const marksOf = (level, answer, names) => answer.f.flatMap(([name, , items]) => items.flatMap(([text, ok]) => {
    const cell = /^\((\d+),(\d+)\)/.exec(text);
    if (ok || !cell || Math.max(cell[1], cell[2]) >= level.n) return [];
    return [{ cell: Number(cell[1]) * level.n + Number(cell[2]), sign: names[name][0], title: `recited as ${names[name]}: ${text}` }];
  }));

  // An answer to look at: the level with the plan on it, beside it the state as recited, the fields, the steps.
  const look = (task, level, answer, failed, alphabet) => {
    const pictures = h("div", { class: "pictures" });
    const walks = [];
    if (task.strip && level.k) {
      const tileKinds = tileKindsOf(level.k, alphabet);
      const seen = answer.q;
      const differ = seen && seen.n === level.n ? tileKindsOf(seen.k, alphabet).map((tileKind, c) => (tileKind === tileKinds[c] ? -1 : c)).filter((c) => c >= 0) : [];
      const plan = answer.p ? `, plan ${answer.p.slice(0, 60).join(" ")}` : "";
      const truth = picture(task.strip, level.n, tileKinds, `${task.title} of ${level.n} by ${level.n} cells, ${answer.b}${plan}`,
        seen ? differ.map((cell) => ({ cell, title: "not what was recited" })) : marksOf(level, answer, task.fields));
      pictures.append(h("figure", {}, truth.root, seen ? h("figcaption", {}, "as it is") : null));
      if (answer.p) walks.push(walk(truth.over, level.n, answer, failed));
      if (seen) {
        const read = picture(task.strip, seen.n, tileKindsOf(seen.k, alphabet), `the state as recited, ${differ.length} cells differ`,
          differ.map((cell) => ({ cell, title: "recited so, and not so" })));
        const fits = seen.p ? (seen.ok ? ", the plan arrives" : ", the plan fails here too") : "";
        pictures.append(h("figure", {}, read.root, h("figcaption", {}, "as recited" + fits)));
        if (seen.p) walks.push(walk(read.over, seen.n, seen, Boolean(seen.bad)));
      }
    } else if (level.i) pictures.append(h("figure", {}, h("img", { src: level.i, alt: `${task.title}, ${answer.b}` })));
    else pictures.append(h("p", { class: "nopicture" }, level.t ? "Its picture is in the data set alone." : "This state cannot be drawn."));
    const steps = answer.p ? stepper(walks, answer, "") : null;
    return { parts: [h("div", { class: answer.q ? "look two" : "look" }, pictures, recital(answer.f, task.fields)), steps ? steps.root : null], steps };
  };

  return { tileKindsOf, loadStrip, picture, veil, walk, stepper, recital, look, sign, MOVES };
})();
