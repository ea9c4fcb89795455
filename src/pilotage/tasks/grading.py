r"""The one grader of answers to questions: a question and a response in, a grade out.

The answer is what stands in the response's last `\boxed{…}` (`pilotage.tasks.boxes`). Without options it is right when,
against the reference or one of the other accepted answers,

* the texts are the same once LaTeX's text commands, spacing, quotes, case and a final full stop are taken away; or
* both are plain numbers and equal (`1,200` and `1200.0`), or brackets of plain numbers and equal in order
  (`(2,0)`, also said without its brackets), or lists of them without brackets and equal in any order; or
* both are mathematical and math-verify calls them equal.

With options it is the letter of the right one (`B`, `(B)`, `B. the text`) or its text, and of nothing else: several
letters, or a letter beside another option's text, are wrong.

Guards against accidents of the last step, each one a case that algebra alone gets wrong: words are no products of
letters (`safe`, `fase`), `1 2` is no sum, `4 = 5` and `1 = 2 = 3` say nothing, a list is not its only member, a unit
must not contradict the reference's. Nothing in a response is ever executed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pilotage.records import Grade, Question
from pilotage.tasks.boxes import BOX_OPEN, boxed_answer
from pilotage.tasks.math_compare import MAX_MATH_CHARACTERS, compare_math

GRADE_REASONS = (
    "right",
    "no_box",
    "empty_box",
    "too_long",
    "no_option",
    "several_options",
    "wrong",
    "timeout",
)
"""Why an answer got its grade. `timeout`: the comparison was ended; it counts as wrong."""

MAX_ANSWER_CHARACTERS = 2_000
"""A longer box is no answer."""
MAX_READ = 200
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

Match = Literal["", "text", "letter", "number", "tuple", "math", "timeout"]

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|emph)"
    r"\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~")
_SIZE = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])")
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u201c\u201d\"'`*\u200b\u200c\u200d\ufeff$", ""),
        "\u00d7": "*",
    }
)
_AROUND = re.compile(r"\s*([,()\[\]{}^])\s*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.?[0-9]*|\.[0-9]+)")
_GROUPED = re.compile(r"(?<![0-9,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")
_LABEL = re.compile(r"(?:option |choice )?[(\[]?([a-z])(?:[)\].:]+\s*(.*))?", re.DOTALL)
_LETTER_LIST = re.compile(r"[(\[]?[a-z][)\]]?(?:\s*(?:,|;|/|&|\||\band\b|\bor\b|\s)\s*[(\[]?[a-z][)\]]?\.?)+")
_UNIT = re.compile(
    r"(?P<value>.*[0-9)}])(?:\s*(?P<long>(?:square |cubic )?(?:mm|cm|dm|km|in|ft|yd|mi|mg|kg|lb|lbs|oz|ml|sec|min|hr|"
    r"meters?|metres?|inch|inches|feet|foot|miles?|grams?|seconds?|minutes?|hours?|days?|years?|degrees?|units?|"
    r"dollars?|cents?|euros?)(?:\^?\{?[23]\}?)?|\^?\{?(?:\\circ|\u00b0|\\degree)\}?)|\s+(?P<short>[mgslh](?:\^?\{?[23]\}?)?))"
)
_SAME_UNIT = {
    "meter": "m",
    "metre": "m",
    "inch": "in",
    "inche": "in",
    "foot": "ft",
    "feet": "ft",
    "mile": "mi",
    "gram": "g",
    "sec": "s",
    "second": "s",
    "minute": "min",
    "hour": "h",
    "hr": "h",
    "lb": "lb",
    "degree": "°",
    "\\circ": "°",
    "\\degree": "°",
}
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]{0,10}matrix\}|\\[A-Za-z]+")
_LOOSE_DIGITS = re.compile(r"[0-9]\s+[0-9]")
_EQUATION = re.compile(r"[a-z](?:_\{?[a-z0-9]\}?)?\s*=[^=]*")


def grade(question: Question, response: str) -> Grade:
    """The grade of one response. Never raises on any `response`.

    Raises PilotageError where the answer needs mathematics and its library is missing
    (`pilotage.tasks.math_compare.require_math` asks that ahead of long work).
    """
    inside = boxed_answer(response)
    if inside is None:
        return Grade(parsed=False, success=False, reason="no_box")
    return grade_answer(question, inside)


def grade_answer(question: Question, said: str) -> Grade:
    """The same for what stands in the box."""
    read = said.strip()[:MAX_READ]
    if len(said) > MAX_ANSWER_CHARACTERS:
        return Grade(parsed=True, success=False, reason="too_long", read=read)
    if not plain_text(said):
        return Grade(parsed=False, success=False, reason="empty_box", read=read)
    if question.options:
        reason, matched = _grade_choice(question, said)
    else:
        matched = matches_any((question.answer, *question.accepted), said)
        reason = {"": "wrong", "timeout": "timeout"}.get(matched, "right")
    success = reason == "right"
    return Grade(parsed=True, success=success, reason=reason, matched=matched if success else "", read=read)


def matches_any(references: Sequence[str], said: str) -> Match:
    """What `said` is recognised by as one of the references; `""` if it is none of them."""
    found: Match = ""
    for reference in references:
        match = matches(reference, said)
        if match not in ("", "timeout"):
            return match
        found = found or match
    return found


def matches(reference: str, said: str) -> Match:
    """What `said` is recognised by as the reference; `""` if it is another answer or one of both is empty."""
    if max(len(reference), len(said)) > MAX_ANSWER_CHARACTERS:
        return ""
    gold, text = plain_text(reference), plain_text(said)
    if not gold or not text:
        return ""
    if gold == text:
        return "text"
    if max(len(gold), len(text)) > MAX_MATH_CHARACTERS:
        return ""
    (gold_value, gold_unit), (value, unit) = split_unit(gold), split_unit(text)
    if gold_unit and unit and gold_unit != unit:
        return ""
    numbers = plain_number(gold_value), plain_number(value)
    if numbers[0] is not None and numbers[1] is not None:
        return "number" if numbers[0] == numbers[1] else ""
    gold_list, said_list = _numbers_in_brackets(gold), _numbers_in_brackets(text)
    if gold_list is not None and said_list is not None:
        (opening, gold_items), (other, said_items) = gold_list, said_list
        if not opening and not other:  # a list without brackets has no order
            return "tuple" if sorted(gold_items) == sorted(said_items) else ""
        return "tuple" if gold_items == said_items and other in ("", opening) else ""
    if not _may_be_same_mathematics(gold_value, value):
        return ""
    outcome = compare_math(_as_latex(gold_value), _as_latex(value))
    return {"equal": "math", "differs": "", "timeout": "timeout"}[outcome]  # pyright: ignore[reportReturnType]


@lru_cache(maxsize=8192)
def plain_text(text: str) -> str:
    """The text without LaTeX's text commands, spacing and sizes, quotes, case and final punctuation.

    Texts that are the same after this are the same answer.
    """
    text = unicodedata.normalize("NFKC", text).replace("\\$", "").replace("{,}", ",").translate(_CHARACTERS)
    for _ in range(4):
        unwrapped = _WRAPPER.sub(r" \1 ", text)
        if unwrapped == text:
            break
        text = unwrapped
    text = _SIZE.sub("", _SPACING.sub(" ", text)).replace("\\%", "%")
    text = _AROUND.sub(r"\1", " ".join(text.split()).casefold())
    return text.strip(" ").rstrip(".;:! ").lstrip(": ") or text.strip(" .;:!")


def plain_number(text: str) -> Fraction | None:
    """The number that a plain text says, thousands grouped by commas or not; None for anything else."""
    match = _NUMBER.fullmatch(text.strip())
    return Fraction(match[0].replace(",", "")) if match is not None else None


def split_unit(text: str) -> tuple[str, str]:
    """(value, unit) of a plain text; the unit in one spelling, `""` where there is none that we know."""
    match = _UNIT.fullmatch(text)
    if match is None:
        return text, ""
    unit = (match["long"] or match["short"]).strip("^{}")
    singular = unit.removesuffix("s") if len(unit) > 2 else unit
    return match["value"].rstrip("^ "), _SAME_UNIT.get(singular, singular)


def option_of(reference: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a data set's answer names, by its letter or its text.

    None where it names none, or where letter and text name two: only a letter that is no option's text, and a text
    that one option alone has, are clear.
    """
    text = plain_text(reference)
    by_text = [i for i, option in enumerate(options) if plain_text(option) == text]
    label = _LABEL.fullmatch(text)
    by_letter = [LETTERS.index(label[1].upper())] if label and not label[2] else []
    if label and label[2]:
        # "B. the text" is clear when the text is B's.
        place = LETTERS.index(label[1].upper())
        if place < len(options) and plain_text(options[place]) == plain_text(label[2]):
            return LETTERS[place]
    named = {i for i in (*by_text, *by_letter) if i < len(options)}
    return LETTERS[named.pop()] if len(named) == 1 else None


def _grade_choice(question: Question, said: str) -> tuple[str, Match]:
    """(reason, what it was recognised by) for a question with options."""
    right = LETTERS.index(question.answer)
    text, texts = plain_text(said), [plain_text(option) for option in question.options]
    label = _LABEL.fullmatch(text)
    if label is not None and LETTERS.index(label[1].upper()) < len(texts):
        chosen, rest = LETTERS.index(label[1].upper()), plain_text(label[2] or "")
        if not rest:
            return ("right", "letter") if chosen == right else ("wrong", "")
        if rest == texts[chosen]:
            return ("right", "letter") if chosen == right else ("wrong", "")
        if text not in texts:
            return ("several_options" if rest in texts else "no_option"), ""
    same = [i for i, option in enumerate(texts) if option == text]
    if not same:
        if _LETTER_LIST.fullmatch(text) or sum(_holds(text, option) for option in texts) > 1:
            return "several_options", ""
        outcomes: list[Match] = [matches(option, said) for option in question.options]
        same = [i for i, match in enumerate(outcomes) if match not in ("", "timeout")]
        if not same:
            return ("timeout" if "timeout" in outcomes else "no_option"), ""
    else:
        outcomes = ["text"] * len(texts)
    if len(same) > 1:
        return "several_options", ""
    return ("right", outcomes[right]) if same[0] == right else ("wrong", "")


def _holds(text: str, option: str) -> bool:
    return bool(option) and re.search(rf"(?<!\w){re.escape(option)}(?!\w)", text) is not None


def _numbers_in_brackets(text: str) -> tuple[str, list[Fraction]] | None:
    """(opening bracket or `""`, numbers) of `(2,0)`, `[2,0]` or `2,0`; None for anything else, a grouped number too."""
    opening = text[:1] if text[:1] in ("(", "[") else ""
    if opening and text[-1:] != {"(": ")", "[": "]"}[opening]:
        return None
    parts = (text[1:-1] if opening else text).split(",")
    numbers = [plain_number(part) for part in parts]
    if len(parts) < 2 or not all(_NUMBER.fullmatch(part.strip()) for part in parts):
        return None
    return opening, [number for number in numbers if number is not None]


def _may_be_same_mathematics(gold: str, said: str) -> bool:
    """Both texts are formulas, and of shapes that can be compared without an accident."""
    if not (_is_formula(gold) and _is_formula(said)):
        return False
    if "=" not in gold and "=" in said and not _EQUATION.fullmatch(said):
        return False
    # A list and its only member, or lists of different lengths with repeats, are not the same answer.
    return _num_commas(gold) == _num_commas(said)


def _num_commas(text: str) -> int:
    return _GROUPED.sub("0", text).count(",") + text.count(";")


def _is_formula(text: str) -> bool:
    if not text or BOX_OPEN in text or _LOOSE_DIGITS.search(text):
        return False
    bare = _COMMAND.sub(" ", _named_functions(text))
    if re.search(r"[^\W\d_]{2,}", bare):
        return False
    return re.search(r"[0-9]|\\[A-Za-z]", text) is not None


def _named_functions(text: str) -> str:
    r"""`sqrt(2)` and `pi`, as people type them, in LaTeX."""
    text = re.sub(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)", r"\\sqrt{\1}", text)
    return (
        re.sub(r"(?<![\\A-Za-z])pi(?![A-Za-z])", r"\\pi ", text)
        .replace("\u03c0", "\\pi ")
        .replace("\u221a", "\\sqrt ")
    )


def _as_latex(text: str) -> str:
    return _named_functions(text).replace("%", "\\%").replace("*", "\\cdot ")
