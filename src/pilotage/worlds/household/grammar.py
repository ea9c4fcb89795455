"""What each role may answer, and how it is read. A text that cannot be read has a problem; nothing here raises.

| role | form | read as |
| --- | --- | --- |
| `schedule` | `Query: explore(red ball)`, `Query: do(open blue door)`, `Query: stop()` | the last call |
| `explore` | `left`: one of ahead, left, right, behind | the one of these that is named |
| `locate` | `red ball [96, 128, 128, 160]`, or `no` | the last four numbers in brackets |
| `describe` | `red ball 2 ahead 1 left, blue door 3 ahead closed`, or `none` | its things |
| `decode` | `[LEFT, FORWARD, PICKUP]`; `[]` where it cannot be done | the last brackets |
| `summarise` | `Done: …` or `Not done: …` | its first words |

What stands in a thought is no answer. Names are read in any case, without articles.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from pilotage.worlds.answers import last_answer_block
from pilotage.worlds.household.missions import ACTIONS
from pilotage.worlds.household.sight import COLOURS, KINDS
from pilotage.worlds.thoughts import after_thoughts

ACT = "act"
CAPABILITIES = ("explore", "locate", "describe", "decode", "summarise")
ROLES = ("schedule", *CAPABILITIES)
DIRECTIONS = ("ahead", "left", "right", "behind")
MAX_ANSWER = 20_000
"""Characters; a longer answer is not read."""
MAX_ACTIONS = 64
MAX_NAME = 60

_CALL = re.compile(r"\b(explore|do)[ \t]*\(([^()\n]{1,200})\)|\b(stop)\b", re.IGNORECASE)
_BOX = re.compile(r"\[\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*,\s*([0-9]{1,6})\s*\]")
_LIST = re.compile(r"\[([^\[\]]*)\]")
_THING = re.compile(
    rf"(?:(?:the|an?) )?((?:(?:{'|'.join(COLOURS.values())}) )?(?:{'|'.join({kind for kind, _ in KINDS.values()})}))"
    r"((?: [0-9]{1,2} (?:ahead|left|right)){0,2}| held)(?: (open|closed|locked))?"
)
_ARTICLES = ("the", "a", "an")


@dataclass(frozen=True, kw_only=True)
class Read:
    """What was read of an answer; `value` is None where `problem` says why there is none."""

    value: Any = None
    problem: str = ""


@dataclass(frozen=True, kw_only=True)
class Query:
    """What the scheduler asks for: to explore for a thing, to do something, to stop."""

    call: Literal["explore", "do", "stop"]
    of: str = ""

    def __str__(self) -> str:
        return f"{self.call}({self.of})"


Box = tuple[int, int, int, int]


def read_answer(role: str, text: str) -> Read:
    """What was read of a role's answer: a Query, a direction, a Box or (), things, actions, a verdict (True: done)."""
    answer = after_thoughts(text) if len(text) <= MAX_ANSWER else None
    if answer is None:
        return Read(problem="no_answer")
    return _READERS[role](answer)


def read_moves(text: str) -> Read:
    """The actions in the last `<answer>` block of an answer that acts directly."""
    block = last_answer_block(text) if len(text) <= MAX_ANSWER else None
    if block is None:
        return Read(problem="no_answer_block")
    found = _actions(block)
    return Read(problem="empty_answer") if found.value == () else found


def thing_named(text: str) -> str:
    """A name in lower case, without an article: `The Red Ball ` is `red ball`."""
    words = text.lower().split()
    return " ".join(words[1:] if words[:1] and words[0] in _ARTICLES else words)[:MAX_NAME]


def actions_text(actions: Sequence[str]) -> str:
    """As `decode` answers."""
    return f"[{', '.join(actions)}]"


def box_text(name: str, box: Box) -> str:
    """As `locate` answers."""
    return f"{name} [{', '.join(map(str, box))}]"


def _schedule(text: str) -> Read:
    asked = re.split(r"query:", text, flags=re.IGNORECASE)[-1]
    calls = list(_CALL.finditer(asked))
    if not calls:
        return Read(problem="no_query")
    named = [call for call in calls if call[1]]
    if not named:
        return Read(value=Query(call="stop"))
    of = _command(named[-1][2])
    call: Any = named[-1][1].lower()
    return Read(value=Query(call=call, of=of)) if of else Read(problem="no_query")


def _command(text: str) -> str:
    """A name or a command without articles, in lower case."""
    return " ".join(word for word in text.lower().split() if word not in _ARTICLES)[:MAX_NAME]


def _explore(text: str) -> Read:
    found = {word for word in re.findall(r"[a-z]+", text.lower()) if word in DIRECTIONS}
    return Read(value=found.pop()) if len(found) == 1 else Read(problem="no_direction")


def _locate(text: str) -> Read:
    numbers = _BOX.findall(text)
    if numbers:
        left, top, right, bottom = map(int, numbers[-1])
        if left < right and top < bottom:
            return Read(value=(left, top, right, bottom))
        return Read(problem="no_box")
    words = re.findall(r"[a-z]+", text.lower())
    return Read(value=()) if words[:1] == ["no"] else Read(problem="no_box")


def _describe(text: str) -> Read:
    parts = [" ".join(part.lower().split()) for part in re.split(r"[,;.\n]", text)]
    parts = [part for part in parts if part]
    if parts == ["none"]:
        return Read(value=frozenset())
    found = [_THING.fullmatch(part) for part in parts]
    if not parts or any(thing is None for thing in found):
        return Read(problem="no_things")
    return Read(value=frozenset((t[1], t[2].strip(), t[3] or "") for t in found if t is not None))


def _decode(text: str) -> Read:
    lists = _LIST.findall(text)
    return _actions(lists[-1]) if lists else Read(problem="no_list")


def _actions(text: str) -> Read:
    words = [word.upper() for word in re.split(r"[\s,;]+", text) if word]
    if any(word not in ACTIONS for word in words):
        return Read(problem="unknown_action")
    return Read(value=tuple(words)) if len(words) <= MAX_ACTIONS else Read(problem="too_many_actions")


def _summarise(text: str) -> Read:
    words = re.findall(r"[a-z]+", text.lower()[:200])[:2]
    if words[:1] == ["done"]:
        return Read(value=True)
    return Read(value=False) if words == ["not", "done"] else Read(problem="no_verdict")


_READERS: Mapping[str, Callable[[str], Read]] = MappingProxyType(
    {
        "schedule": _schedule,
        "explore": _explore,
        "locate": _locate,
        "describe": _describe,
        "decode": _decode,
        "summarise": _summarise,
    }
)
