(() => {
  const $ = (id) => document.getElementById(id);
  const holder = $("gallery-index");
  if (!holder) return;
  const index = JSON.parse(holder.textContent);
  const PAGE = 12, CACHED = 48;
  const numLevels = index.ids.length;
  const good = index.verdict.map((v) => index.verdicts[v][3] === 1);

  // Chunks are inflated when one of their levels is shown.
  const chunks = new Map();
  const inflate = async (number) => {
    const text = atob($("chunk-" + number).textContent.trim());
    const bytes = new Uint8Array(text.length);
    for (let i = 0; i < text.length; i += 1) bytes[i] = text.charCodeAt(i);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return JSON.parse(await new Response(stream).text());
  };
  const chunkOf = (number) => {
    const kept = chunks.get(number) || inflate(number);
    chunks.delete(number);
    chunks.set(number, kept);
    if (chunks.size > CACHED) chunks.delete(chunks.keys().next().value);
    return kept;
  };
  let strips = null;

  // The filters: what they offer is what there is.
  const names = ["task", "level", "condition", "source", "verdict", "fault", "field", "right", "wrong", "id"];
  const inputs = Object.fromEntries(names.map((name) => [name, $("f-" + name)]));
  const offer = (name, options) => {
    for (const [value, text] of options) inputs[name].append(h("option", { value }, text));
    inputs[name].closest("label").hidden = options.length < 2;
  };
  const there = (column) => [...new Set(column)].sort((a, b) => a - b);
  offer("task", there(index.task).map((t) => [t, index.tasks[t].title]));
  offer("level", there(index.level).filter((n) => n > 0).map((n) => [n, `${n}×${n}`]));
  offer("condition", there(index.condition).map((k) => [k, index.conditions[k]]));
  offer("source", index.sources.map((title, s) => [s, title]));
  const verdicts = there(index.verdict).map((v) => ["v" + v, index.verdicts[v][2]]);
  const reasons = there(index.reason).filter((r) => index.reasons[r] && !["not reached", "success"].includes(index.reasons[r])).map((r) => ["r" + r, "— " + index.reasons[r]]);
  offer("verdict", [["bad", "any failure"], ...verdicts, ...reasons]);
  offer("fault", there(index.fault).filter((f) => index.faults[f][0]).map((f) => [f, index.faults[f][1]]));
  const fieldNames = [...new Set(index.tasks.flatMap((task) => task.fields))];
  offer("field", fieldNames.map((name) => [name, name]));
  for (const name of ["right", "wrong"]) offer(name, index.sources.map((title, s) => [s, title]));
  if (index.conditions.length > 1) inputs.condition.value = String(there(index.condition)[0]);
  const standard = Object.fromEntries(names.map((name) => [name, inputs[name].value]));

  const filters = $("filters");
  let found = [], page = 0, turn = 0;

  const search = () => {
    const want = Object.fromEntries(names.map((name) => [name, inputs[name].value]));
    const number = (name) => (want[name] === "" ? -1 : Number(want[name]));
    const task = number("task"), level = number("level"), condition = number("condition"), source = number("source"), fault = number("fault");
    const right = number("right"), wrong = number("wrong"), id = want.id.trim().toLowerCase();
    const verdict = /^v\d+$/.test(want.verdict) ? Number(want.verdict.slice(1)) : -1;
    const reason = /^r\d+$/.test(want.verdict) ? Number(want.verdict.slice(1)) : -1;
    const bits = index.tasks.map((t) => (want.field === "" ? 0 : 1 << t.fields.indexOf(want.field)));
    const absent = index.tasks.map((t) => want.field !== "" && !t.fields.includes(want.field));
    const pairCondition = condition >= 0 ? condition : there(index.condition)[0];
    found = [];
    for (let i = 0; i < numLevels; i += 1) {
      if ((task >= 0 && index.task[i] !== task) || (level >= 0 && index.level[i] !== level)) continue;
      if ((id && !index.ids[i].toLowerCase().includes(id)) || absent[index.task[i]]) continue;
      const shown = [];
      let isRight = right < 0, isWrong = wrong < 0;
      for (let j = index.start[i]; j < index.start[i + 1]; j += 1) {
        if (index.condition[j] === pairCondition) {
          if (index.source[j] === right && good[j]) isRight = true;
          if (index.source[j] === wrong && !good[j]) isWrong = true;
        }
        if ((condition >= 0 && index.condition[j] !== condition) || (source >= 0 && index.source[j] !== source)) continue;
        if ((verdict >= 0 && index.verdict[j] !== verdict) || (reason >= 0 && index.reason[j] !== reason)) continue;
        if ((want.verdict === "bad" && good[j]) || (fault >= 0 && index.fault[j] !== fault)) continue;
        if (bits[index.task[i]] && !(index.wrong[j] & bits[index.task[i]])) continue;
        shown.push(j);
      }
      if (shown.length && isRight && isWrong) found.push([i, shown]);
    }
  };

  // An episode of several turns: a picture a turn with the move made on it, below it the move and what went wrong.
  const film = (strip, n, { frames, left, first, failed, fog }) => {
    const shown = frames.map(([tileKinds, said, marks, moves, way], k) => {
      const cells = tileKinds === null ? null : Level.tileKindsOf(tileKinds, index.alphabet);
      const drawn = strip && cells ? Level.picture(strip, n, cells, `turn ${k + 1}: ${moves.join(" ") || "no move"}`, [], 84) : null;
      if (drawn && fog && way.length) Level.veil(drawn.over, n, way[0], fog);
      if (drawn && moves.length) Level.walk(drawn.over, n, { p: moves, c: way, t: moves.length, all: 1 }, Boolean(failed) && k === frames.length - 1);
      const label = moves.length ? moves.map(Level.sign).join(" ") : said || "–";
      const is = k === first ? "first" : marks.length ? "marked" : "";
      return h("li", { class: is }, h("small", {}, String(k + 1)), drawn ? drawn.root : h("div", { class: "no-picture" }, "no picture"),
        h("code", { title: said }, label), k === first ? h("small", {}, "first mistake") : null, marks.map((mark) => h("span", { class: "mark" }, mark)));
    });
    if (left) shown.push(h("li", { class: "left" }, `and ${left} more` + (first >= frames.length ? `, the first mistake in turn ${first + 1}` : "")));
    if (fog) shown.push(h("li", { class: "left" }, `shaded: not seen, farther than ${fog} cells`));
    return { parts: [h("ol", { class: "film", tabindex: 0, "aria-label": "turn by turn" }, shown)] };
  };

  const answerView = (i, j, level, prompts) => {
    const answer = level.a[j - index.start[i]];
    const task = index.tasks[index.task[i]];
    const [verdict, sign] = index.verdicts[index.verdict[j]];
    const failed = verdict === "illegal";
    const fault = index.faults[index.fault[j]];
    const several = index.sources.length > 1 ? index.sources[index.source[j]] : "";
    const heading = [several, index.conditions.length > 1 ? index.conditions[index.condition[j]] : "", answer.s ? `answer ${answer.s + 1}` : ""].filter(Boolean);
    const strip = strips[index.task[i]];
    const look = answer.film ? film(strip, level.n, answer.film) : Level.look({ ...task, strip }, level, answer, failed, index.alphabet);
    const details = h("details", {}, h("summary", {}, "Prompt and full answer"));
    details.addEventListener("toggle", () => {
      if (!details.open || details.childElementCount > 1) return;
      if (answer.m >= 0) details.append(h("h5", {}, "Prompt"), h("pre", { dir: "ltr", tabindex: 0 }, prompts[answer.m]));
      details.append(h("h5", {}, "Answer"), h("pre", { dir: "ltr", tabindex: 0, class: "response" }, answer.r || "(empty)"));
    });
    const blame = answer.w ? h("span", { class: "fault" }, answer.w) : null;
    return h("section", { class: "answer", "data-source": index.source[j], "data-condition": index.condition[j], "data-verdict": verdict, "data-fault": fault[0] },
      h("h4", {}, heading.length ? heading.join(", ") : null, h("span", { class: "badge v-" + verdict }, h("i", { "aria-hidden": "true" }, sign), answer.b), blame),
      look.parts, details);
  };

  const card = (i, shown, level, prompts) => {
    const length = index.length[i];
    const about = [index.level[i] > 0 ? `${index.level[i]}×${index.level[i]}` : "", index.difficulties[index.difficulty[i]],
      length > 0 ? `best plan ${length} step${length === 1 ? "" : "s"}` : ""].filter(Boolean).join(" · ");
    return h("article", { class: "card level-card", "data-task": index.task[i], "data-level": i },
      h("h3", {}, index.tasks[index.task[i]].title + " ", h("small", {}, about), " ", h("code", {}, index.ids[i])),
      level.t ? h("p", { class: "asked" }, level.t) : null, level.o ? h("ol", { class: "options" }, level.o.map((option) => h("li", {}, option))) : null,
      h("div", { class: "answers" }, shown.map((j) => answerView(i, j, level, prompts))));
  };

  const show = async () => {
    const mine = (turn += 1);
    const here = found.slice(page * PAGE, (page + 1) * PAGE);
    strips = strips || (await Promise.all(index.tasks.map((task) => Level.loadStrip(task.strip))));
    const parts = await Promise.all(here.map(([i]) => chunkOf(Math.floor(i / index.chunk))));
    if (mine !== turn) return;
    $("cards").replaceChildren(...here.map(([i, shown], k) => card(i, shown, parts[k].levels[i % index.chunk], parts[k].prompts)));
    const pages = Math.ceil(found.length / PAGE);
    $("pager").hidden = pages < 2;
    $("previous").disabled = page === 0;
    $("next").disabled = page >= pages - 1;
    $("page").max = pages;
    $("page").value = page + 1;
    $("pages").textContent = "of " + pages.toLocaleString("en");
    $("cards").dataset.ready = String(mine);
    Waffle.draw(index, good, found, page * PAGE, here.length);
  };

  const tell = () => {
    let answers = 0;
    for (const [, shown] of found) answers += shown.length;
    const of = (count, all) => (count === all ? count.toLocaleString("en") : `${count.toLocaleString("en")} of ${all.toLocaleString("en")}`);
    $("f-count").value = found.length ? `${of(found.length, numLevels)} ${filters.dataset.noun}, ${answers.toLocaleString("en")} answers` : "nothing like that here";
  };

  const remember = () => {
    const set = names.filter((name) => inputs[name].value !== standard[name]).map((name) => `${name}=${encodeURIComponent(inputs[name].value)}`);
    history.replaceState(null, "", set.length ? "#gallery?" + set.join("&") : "#gallery");
  };
  const recall = () => {
    if (!location.hash.startsWith("#gallery?")) return false;
    const set = new URLSearchParams(location.hash.slice(9));
    for (const name of names) inputs[name].value = set.has(name) ? set.get(name) : standard[name];
    return true;
  };
  const apply = () => { page = 0; search(); tell(); return show(); };
  const turnTo = (to) => {
    page = Math.max(0, Math.min(Math.ceil(found.length / PAGE) - 1, to));
    show().then(() => $("filters").scrollIntoView({ block: "start" }));
  };

  filters.addEventListener("submit", (event) => event.preventDefault());
  filters.addEventListener("input", () => { remember(); apply(); });
  $("f-reset").addEventListener("click", () => { for (const name of names) inputs[name].value = standard[name]; remember(); apply(); });
  $("previous").addEventListener("click", () => turnTo(page - 1));
  $("next").addEventListener("click", () => turnTo(page + 1));
  $("page").addEventListener("change", () => turnTo(Number($("page").value) - 1));
  addEventListener("hashchange", () => { if (recall()) { apply(); $("gallery").scrollIntoView(); } });
  Waffle.listen((at) => turnTo(Math.floor(at / PAGE)));
  filters.hidden = false;
  Waffle.legend(index);
  const linked = recall();
  apply().then(() => { document.documentElement.dataset.ready = "1"; if (linked) $("gallery").scrollIntoView(); });
})();
