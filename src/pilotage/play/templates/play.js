(() => {
  const $ = (id) => document.getElementById(id);
  const settings = JSON.parse($("settings").textContent);
  const strips = {};
  const tally = {};
  let level = null;
  let task = settings.tasks[0];
  let busy = false;
  let board = null;

  const ask = async (path, question) => {
    const response = await fetch("/api/" + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Pilotage": settings.token },
      body: JSON.stringify(question),
    });
    const answer = await response.json();
    if (!response.ok) throw new Error(answer.error);
    return answer;
  };
  // One question at a time; what went wrong is said on the page.
  const doing = (what) => async (event) => {
    if (event) event.preventDefault();
    if (busy) return;
    busy = true;
    for (const button of document.querySelectorAll(".primary, #own button")) button.disabled = true;
    $("problem").hidden = true;
    try {
      await what();
    } catch (error) {
      $("problem").textContent = error instanceof TypeError ? "the server does not answer; is `pilotage play` still running?" : error.message;
      $("problem").hidden = false;
    }
    busy = false;
    for (const button of document.querySelectorAll(".primary, #own button")) button.disabled = false;
    document.documentElement.dataset.ready = String(Number(document.documentElement.dataset.ready || 0) + 1);
  };

  const add = (action) => {
    const plan = $("plan");
    plan.value = (plan.value.trim() + " " + action).trim();
    plan.scrollLeft = plan.scrollWidth;
  };
  const takeBack = () => { $("plan").value = $("plan").value.trim().replace(/\s*\S+$/, ""); };

  const offerTask = () => {
    $("title").textContent = task.title;
    $("rules").textContent = task.rules;
    $("form").textContent = task.form ? "One map: " + task.form : "This task has no form for maps.";
    $("own").hidden = !task.form;
    $("level").replaceChildren(...task.levels.map((n) => h("option", { value: n }, `${n}×${n}`)));
    const others = task.actions.filter((action) => !(action in Level.MOVES));
    $("pad").replaceChildren(
      ...["L", "D", "U", "R"].filter((move) => task.actions.includes(move)).map((move) => key(move, Level.sign(move), { L: "left", D: "down", U: "up", R: "right" }[move])),
      ...others.map((action, i) => key(action, action, action.toLowerCase(), String(i + 1))),
      key(null, "⌫", "take the last action back"));
  };
  const key = (action, sign, label, hint) => {
    const button = h("button", { type: "button", "aria-label": label }, sign, hint ? h("kbd", { "aria-hidden": "true" }, hint) : null);
    button.addEventListener("click", () => (action ? add(action) : takeBack()));
    return button;
  };

  const show = async (given) => {
    level = given;
    if (level.task !== task.name) {
      task = settings.tasks.find((other) => other.name === level.task);
      $("task").value = task.name;
      offerTask();
    }
    strips[task.name] = strips[task.name] || (await Level.loadStrip(task.strip));
    const tileKinds = Level.tileKindsOf(level.k, settings.alphabet);
    const picture = Level.picture(strips[task.name], level.n, tileKinds, `${task.title}, ${level.n} by ${level.n} cells; the level in words is beside it`, [], 480);
    board = picture;
    $("board").replaceChildren(picture.root);
    $("about").textContent = [`${level.n}×${level.n}`, level.difficulty, level.id].filter(Boolean).join(" · ") + (level.solvable ? "" : " · no plan reaches the goal");
    $("words").replaceChildren(...level.words.map(([name, text]) => h("div", {}, h("dt", {}, name), h("dd", {}, text))));
    $("map").value = level.text;
    $("plan").value = "";
    $("results").replaceChildren();
  };

  const count = (who, verdict) => {
    const of = (tally[who] = tally[who] || { levels: 0, arrived: 0, optimal: 0 });
    of.levels += 1;
    of.arrived += verdict.success;
    of.optimal += verdict.optimal;
    $("tally").replaceChildren(...Object.entries(tally).map(([name, t]) => h("tr", {}, h("th", { scope: "row" }, h("bdi", {}, name)), h("td", {}, t.levels), h("td", {}, t.arrived), h("td", {}, t.optimal))));
  };

  const heading = (who, judged) => h("h3", {}, who,
    h("span", { class: "badge v-" + judged.class }, h("i", { "aria-hidden": "true" }, settings.verdicts[judged.class]), judged.answer.b),
    judged.answer.w ? h("span", { class: "fault" }, judged.answer.w) : null);

  // A plan walks on the board; the card under it steps it.
  const onBoard = (plan, failed) => {
    board.over.replaceChildren();
    return Level.stepper([Level.walk(board.over, level.n, plan, failed)], plan, "");
  };

  const yours = (judged) => {
    const answer = judged.answer;
    // A person recites nothing, and nothing is held against it.
    answer.w = "";
    const card = h("article", { class: "card result", "data-verdict": judged.class }, heading("You", judged));
    const steps = answer.p ? onBoard(answer, judged.class === "illegal") : null;
    if (steps) card.append(steps.root);
    if (judged.best && judged.class !== "optimal") {
      const button = h("button", { type: "button", class: "quiet" }, `Show a best plan, ${judged.best.t} step${judged.best.t === 1 ? "" : "s"}`);
      button.addEventListener("click", () => {
        const best = onBoard(judged.best, false);
        card.replaceChildren(heading("You", judged), h("p", { class: "best" }, "A best plan:"), best.root);
        best.play();
      });
      card.append(h("p", { class: "best" }, button));
    }
    for (const old of document.querySelectorAll(".result.mine")) old.remove();
    card.classList.add("mine");
    $("results").prepend(card);
    if (steps) steps.play();
    count("You", judged.outcome);
  };

  const theirs = (judged, view) => {
    const answer = judged.answer;
    const shown = { title: task.title, strip: strips[task.name], fields: judged.fields };
    const look = Level.look(shown, level, answer, judged.class === "illegal", settings.alphabet);
    const caption = `shown ${view === "image" ? "the picture" : "the level in words"}, ${judged.seconds} s`;
    $("results").append(h("article", { class: "card result", "data-verdict": judged.class }, heading(settings.model, judged), look.parts,
      h("p", { class: "note" }, caption),
      h("details", {}, h("summary", {}, "Full answer"), h("pre", { dir: "ltr", tabindex: 0, class: "response" }, answer.r || "(empty)"))));
    if (look.steps) look.steps.play();
    count(settings.model, judged.outcome);
    $("results").lastChild.scrollIntoView({ block: "nearest" });
  };

  const fresh = doing(async () => {
    const seed = Number($("seed").value);
    await show(await ask("level", { task: $("task").value, level: Number($("level").value), seed }));
  });
  const another = () => { if (!busy) { $("seed").value = Math.floor(Math.random() * 2147483647); fresh(); } };
  const judge = doing(async () => yours(await ask("judge", { task: level.task, state: level.state, plan: $("plan").value })));
  const askModel = doing(async () => {
    const view = $("view").value;
    theirs(await ask("model", { task: level.task, state: level.state, view }), view);
  });
  const own = doing(async () => show(await ask("map", { task: task.name, text: $("map").value })));

  $("theme").addEventListener("click", () => {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
  });
  $("task").append(...settings.tasks.map((each) => h("option", { value: each.name }, each.title)));
  $("task").addEventListener("change", () => { task = settings.tasks.find((each) => each.name === $("task").value); offerTask(); another(); });
  $("level").addEventListener("change", another);
  $("seed").addEventListener("change", fresh);
  $("choose").addEventListener("submit", (event) => { event.preventDefault(); another(); });
  $("judge").addEventListener("click", judge);
  $("plan").addEventListener("keydown", (event) => { if (event.key === "Enter") judge(event); });
  $("own").addEventListener("submit", own);
  if (settings.model) $("ask").addEventListener("submit", askModel);

  const ARROWS = { ArrowLeft: "L", ArrowDown: "D", ArrowRight: "R", ArrowUp: "U" };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input:not([type=range]), textarea, select, summary, pre")) return;
    const others = task.actions.filter((action) => !(action in Level.MOVES));
    // Arrows on a slider are the slider's.
    if (event.target.closest("input") && event.key in ARROWS) return;
    if (event.key in ARROWS) add(ARROWS[event.key]);
    else if (event.key === "Backspace") takeBack();
    else if (event.key === "Enter" && !event.target.closest("button, a")) judge();
    else if (/^[1-9]$/.test(event.key) && others[event.key - 1]) add(others[event.key - 1]);
    else if (event.key === "n") another();
    else if (event.key === "m" && settings.model) askModel();
    else return;
    event.preventDefault();
  });

  offerTask();
  another();
})();
