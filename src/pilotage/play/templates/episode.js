(() => {
  "use strict";
  const settings = JSON.parse(document.getElementById("settings").textContent);
  const $ = (id) => document.getElementById(id);
  let busy = false;

  const ask = async (path, question) => {
    const response = await fetch("/api/" + path, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-Pilotage": settings.token },
      body: JSON.stringify(question),
    });
    const told = await response.json();
    if (!response.ok) throw new Error(told.error);
    return told;
  };

  const show = (told) => {
    $("pictures").replaceChildren(...told.images.map((png) => {
      const picture = new Image();
      picture.src = "data:image/png;base64," + png;
      picture.alt = "what is seen";
      return picture;
    }));
    $("answering").hidden = told.over;
    if (told.over) {
      const measures = Object.entries(told.measures).map(([name, value]) => `${name.replaceAll("_", " ")} ${value}`);
      $("about").textContent = `The episode is over: ${told.reason}. ${measures.join(", ")}`;
      return;
    }
    $("about").textContent = `Turn ${told.turn}`;
    $("role").textContent = `Your answer as ${told.role}`;
    $("prompt").textContent = told.text;
    $("prompt").style.whiteSpace = "pre-wrap";
    $("answer").value = "";
    $("pad").replaceChildren(...told.actions.map((action) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = action;
      button.addEventListener("click", () => doing(() => ask("answer", { text: action })));
      return button;
    }));
    $("answer").focus();
  };

  // One question at a time; what went wrong is said on the page.
  const doing = async (what) => {
    if (busy) return;
    busy = true;
    $("problem").hidden = true;
    try {
      show(await what());
    } catch (error) {
      $("problem").textContent = error instanceof TypeError ? "the server does not answer; is `pilotage play` still running?" : error.message;
      $("problem").hidden = false;
    } finally {
      busy = false;
    }
  };
  const begin = () => doing(() => ask("begin", { condition: $("condition").value, seed: Number($("seed").value) }));

  for (const { name, title } of settings.conditions) $("condition").append(new Option(title, name));
  $("choose").addEventListener("submit", (event) => { event.preventDefault(); begin(); });
  $("answering").addEventListener("submit", (event) => {
    event.preventDefault();
    doing(() => ask("answer", { text: $("answer").value }));
  });
  $("answer").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.ctrlKey) $("answering").requestSubmit();
  });
  begin();
})();
