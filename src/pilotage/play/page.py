"""The page itself: one document with its script and style, drawn by the same code as the report's gallery."""

from __future__ import annotations

from markupsafe import Markup

from pilotage.play.episode import ByHand
from pilotage.play.game import Playable
from pilotage.report.assets import asset, embedded_json, environment, script
from pilotage.report.text import visible
from pilotage.report.tiles import ALPHABET, task_strip
from pilotage.report.verdicts import VERDICTS
from pilotage.worlds.capabilities import able
from pilotage.worlds.registry import planning_worlds
from pilotage.worlds.task import TextMaps

PACKAGE = "pilotage.play"
_SCRIPT, _HASH = script("level.js", f"{PACKAGE}:play.js")
_EPISODE_SCRIPT, _EPISODE_HASH = script(f"{PACKAGE}:episode.js")


def _policy(hash_: str) -> str:
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; connect-src 'self'; "
        f"script-src 'sha256-{hash_}'; base-uri 'none'; form-action 'none'"
    )


POLICY = _policy(_HASH)
EPISODE_POLICY = _policy(_EPISODE_HASH)


def render_page(*, model: str | None, token: str) -> str:
    """The whole page; `model` is the name of the model that can be asked."""
    settings = {
        "token": token,
        "model": None if model is None else visible(model, 80),
        "alphabet": ALPHABET,
        "verdicts": {key: sign for key, (sign, _) in VERDICTS.items()},
        "tasks": [
            {
                "name": task.name,
                "title": task.title,
                "levels": list(task.levels),
                "actions": list(task.actions),
                "rules": task.rules["full"],
                "form": maps.text_form if (maps := able(task, TextMaps)) else "",
                "strip": task_strip(task),
            }
            for task in (able(world, Playable) for world in planning_worlds())
            if task is not None
        ],
    }
    return (
        environment(PACKAGE)
        .get_template("play.html.j2")
        .render(
            model=settings["model"],
            settings=embedded_json(settings),
            style=Markup(asset("page.css") + asset("play.css", PACKAGE)),
            script=_SCRIPT,
            policy=POLICY,
        )
    )


def render_episode_page(hand: ByHand, *, token: str) -> str:
    """The page on which episodes of one world are played by hand."""
    settings = {
        "token": token,
        "conditions": [{"name": each.name, "title": each.title} for each in hand.conditions],
    }
    return (
        environment(PACKAGE)
        .get_template("episode.html.j2")
        .render(
            title=hand.world.title,
            settings=embedded_json(settings),
            style=Markup(asset("page.css") + asset("play.css", PACKAGE)),
            script=_EPISODE_SCRIPT,
            policy=EPISODE_POLICY,
        )
    )
