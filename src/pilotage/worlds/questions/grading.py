r"""The one grader of answers to questions: a question and a response in, a grade out.

The answer is what stands in the response's last `\boxed{…}` behind its thoughts (`pilotage.worlds.boxes`).
Without options it is right when, against the reference or one of the other accepted answers,

* the texts are the same once LaTeX's text commands, spacing, quotes, case and a final full stop are taken away; or
* both are numbers and equal as exact fractions (`1,200` and `1200.0`, `½` and `0.5`, `5!` and `120`), in units that can
  be converted (`5 km`, `5000 m`), one of which may be left out; or times of day (`3:30 pm`, `15:30`); or
* both are brackets of plain numbers and equal in order (`(2,0)`, also said without its brackets), or lists of them
  without brackets and equal in any order; or
* both are mathematical and math-verify calls them equal.

With options it is the letter of the right one (`B`, `(B)`, `B - the text`, `Answer: B`) or its text, and of nothing
else: several letters, or a letter beside another option's text, are wrong.

Guards against accidents of the last step, each one a case that algebra alone gets wrong: words are no products of
letters (`safe`, `fase`), neither are names (`B2`, `2B`), `1 2` is no sum, `4 = 5` and `1 = 2 = 3` say nothing, a list
is not its only member, a unit must not contradict the reference's. Nothing in a response is ever executed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from pilotage.records import Outcome
from pilotage.worlds.boxes import BOX_OPEN, boxed_answer
from pilotage.worlds.questions.math_compare import MAX_MATH_CHARACTERS, compare_math
from pilotage.worlds.questions.quantities import (
    Unit,
    decimal,
    exact_number,
    is_rounded,
    split_unit,
    time_of_day,
)
from pilotage.worlds.questions.question import Question

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

Match = Literal["", "text", "letter", "number", "time", "tuple", "math", "timeout"]

_WRAPPER = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathtt|operatorname|mbox|emph)"
    r"\s*\{([^{}]*)\}"
)
_SPACING = re.compile(r"\\[,;:! ]|\\q?quad(?![A-Za-z])|~")
_SIZE = re.compile(r"\\(?:left|right|displaystyle|limits)(?![A-Za-z])")
_RAISED, _LOWERED = "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎"
_LEVEL = str.maketrans(_RAISED + _LOWERED, "0123456789+-=()ni" + "0123456789+-=()")
_RAISED_RUN, _LOWERED_RUN = re.compile(f"[{_RAISED}]+"), re.compile(f"[{_LOWERED}]+")
_VULGAR = re.compile("[\u00bc-\u00be\u2150-\u215e\u2189]")
_NO_WIDTH = "[\u200b-\u200f\u2060-\u2064\ufeff\u00ad]+"
_BETWEEN_DIGITS = re.compile(rf"(?<=[0-9]){_NO_WIDTH}(?=[0-9])")
_NO_WIDTH_RUN = re.compile(_NO_WIDTH)
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-"),
        **dict.fromkeys("\u2018\u2019\u2032", "'"),
        **dict.fromkeys("\u201c\u201d\u2033", '"'),
        **dict.fromkeys("\u00d7\u2217\u22c5\u00b7\u2219", "*"),
        "`": "",
        "\u2044": "/",
        "\u3002": ".",
        "\u3001": ",",
    }
)
_TIMES = re.compile(r"\\(?:times|cdot)(?![A-Za-z])")
_PRIME = re.compile(r"\^\{?(?:\\prime)+\}?")
_DEGREE = re.compile(r"\^?\{?\\(?:circ|degree)(?![A-Za-z])\}?")
_DEGREE_OF = re.compile(r"°\s*([cf])(?![a-z])")
_QUOTED = re.compile(r"(?<![\w)\]}])([\"'])((?:(?!\1).)*)\1(?!\w)")
_STARRED = re.compile(r"(?<![\w)}*])(\*{1,3})(?!\s)([^*]+?)(?<!\s)\1(?![\w({\\*])")
_POWER = re.compile(r"(?<=[\w)}])\s*\*\*\s*(?=[\w({\\-])")
_BRACED = re.compile(r"([\^_])\{(\w)\}")
_AROUND = re.compile(r"\s*([,()\[\]{}^*])\s*")
_MATHS = re.compile(r"\$\$?([^$]*[^$\\])\$\$?|\\\((.*)\\\)|\\\[(.*)\\\]", re.DOTALL)
_PREAMBLE = re.compile(
    r"(?:(?:so|thus|therefore),? )?(?:the )?(?:(?:final|correct|right) )?(?:answer|option|choice)(?:\s+is)?"
    r"\s*[:=]?\s*(?=\S)"
)
_EXCLAIMED = re.compile(r"(?<=[^\W\d_]{2})!+$")
_THIN = re.compile(r"(?<=[0-9])\\[, ](?=[0-9]{3}(?![0-9]))")
"""A thin space that groups thousands."""
_LISTED = re.compile(r"(?<=[0-9]),\s+(?=[0-9]{3}(?![0-9]))")
"""The comma of `3, 100`, which is two numbers."""
_GROUPED = re.compile(r"(?<![0-9,])([0-9]{1,3}(?:,[0-9]{3})+)(?![0-9,])")
_LABEL = re.compile(
    r"(?:\\\{|[(\[{])?([a-z])(?:\\\}|[)\]}])?(?:(?<=[)\]}])(?=\w)|\s*[-.:,)\]]+\s*|\s+|$)(.*)", re.DOTALL
)
_LABEL_BEHIND = re.compile(r"(.*\S)\s*[(\[]([a-z])[)\]]", re.DOTALL)
_LETTER_LIST = re.compile(r"[(\[]?[a-z][)\]]?(?:\s*(?:,|;|/|&|\||\band\b|\bor\b|\s)\s*[(\[]?[a-z][)\]]?\.?)+")
_NAME = re.compile(r"[a-z]+[0-9][a-z0-9]*")
"""`B2`: a name, in which neither order nor nearness is multiplication. `2b` is a product."""
_ALNUM = re.compile(r"(?=.*[a-z])(?=.*[0-9])[a-z0-9]+")
_COMMAND = re.compile(r"\\(?:begin|end)\{[a-z]{0,10}matrix\}|\\[A-Za-z]+")
_LOOSE_DIGITS = re.compile(r"[0-9]\s+[0-9]")
_EQUATION = re.compile(r"[a-z](?:_\{?[a-z0-9]\}?)?\s*=[^=]*")


def grade(question: Question, response: str) -> Outcome:
    """The grade of one response. Never raises on any `response`.

    Raises PilotageError where the answer needs mathematics and its library is missing
    (`pilotage.worlds.questions.math_compare.require_math` asks that ahead of long work).
    """
    inside = boxed_answer(response)
    if inside is None:
        return _graded("no_box", parsed=False)
    return grade_answer(question, inside)


def grade_answer(question: Question, said: str) -> Outcome:
    """The same for what stands in the box."""
    read = said.strip()[:MAX_READ]
    if len(said) > MAX_ANSWER_CHARACTERS:
        return _graded("too_long", read=read)
    if not plain_text(said):
        return _graded("empty_box", parsed=False)
    if question.options:
        reason, matched = _grade_choice(question, said)
    else:
        matched = matches_any((question.answer, *question.accepted), said)
        reason = {"": "wrong", "timeout": "timeout"}.get(matched, "right")
    return _graded(reason, read=read, matched=matched)


def _graded(reason: str, *, parsed: bool = True, read: str = "", matched: str = "") -> Outcome:
    """`parsed`: there is a box with something in it; `matched`: what the right answer was recognised by."""
    success = reason == "right"
    return Outcome(
        success=success,
        reason="success" if success else reason,
        measures={"parsed": parsed},
        fields={"answer": read} if parsed else {},
        right={"answer": success},
        notes={"matched": matched} if success else {},
    )


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
    times = time_of_day(gold), time_of_day(text)
    if times != (None, None):
        return "time" if times[0] == times[1] else ""
    if _are_names(gold, text):
        return ""
    gold_list, said_list = _numbers_in_brackets(gold), _numbers_in_brackets(text)
    if gold_list is not None and said_list is not None:
        (opening, gold_items), (other, said_items) = gold_list, said_list
        if not opening and not other:  # a list without brackets has no order
            return "tuple" if sorted(gold_items) == sorted(said_items) else ""
        return "tuple" if gold_items == said_items and other in ("", opening) else ""
    (gold_value, gold_unit), (value, unit) = split_unit(gold), split_unit(text)
    if gold_unit is not None and unit is not None and gold_unit.dimension != unit.dimension:
        return ""
    numbers = exact_number(gold_value), exact_number(value)
    if numbers[0] is not None and numbers[1] is not None:
        is_same = _is_same_amount(numbers[0], gold_unit, numbers[1], unit)
        return "number" if is_same or (gold_unit == unit and is_rounded(numbers[0], value)) else ""
    if gold_unit is not None and unit is not None and gold_unit.factor != unit.factor:
        return ""
    if not _may_be_same_mathematics(gold_value, value):
        return ""
    outcome = compare_math(_as_latex(gold_value), _as_latex(value))
    return {"equal": "math", "differs": "", "timeout": "timeout"}[outcome]  # pyright: ignore[reportReturnType]


def _are_names(gold: str, said: str) -> bool:
    """One of them is a name such as `B2`, or both are letters and digits in a row: only the same text is the same."""
    if _ALNUM.fullmatch(gold) and _ALNUM.fullmatch(said):
        return True
    return _NAME.fullmatch(gold) is not None or _NAME.fullmatch(said) is not None


def _is_same_amount(gold: Fraction, gold_unit: Unit | None, said: Fraction, unit: Unit | None) -> bool:
    """Equal amounts. A unit that one of both leaves out is not held against it; per cent may be said as a share."""
    if gold_unit is not None and unit is not None:
        return gold * gold_unit.factor == said * unit.factor
    one = gold_unit or unit
    if one is not None and one.dimension == "percent":
        share, plain = (gold, said) if gold_unit is not None else (said, gold)
        return plain in (share, share * one.factor)
    return gold == said


@lru_cache(maxsize=8192)
def plain_text(text: str) -> str:
    """The text without LaTeX's text commands, spacing and sizes, quotes, case and final punctuation.

    Texts that are the same after this are the same answer. What is raised, lowered or a fraction by its character alone
    (`x²`, `½`) is spelled out first: compatibility forms would make 102 of 10².
    """
    text = _RAISED_RUN.sub(lambda run: f"^{{{run[0].translate(_LEVEL)}}}", text)
    text = _LOWERED_RUN.sub(lambda run: f"_{{{run[0].translate(_LEVEL)}}}", text)
    text = _VULGAR.sub(_as_fraction, text)
    text = _NO_WIDTH_RUN.sub("", _BETWEEN_DIGITS.sub(" ", text))
    text = unicodedata.normalize("NFKC", text).translate(_CHARACTERS)
    text = text.strip().replace("{,}", ",")
    if (maths := _MATHS.fullmatch(text)) is not None:
        text = next(inside for inside in maths.groups() if inside is not None)
    text = _THIN.sub(",", _LISTED.sub(";", text))
    for _ in range(4):
        unwrapped = _WRAPPER.sub(r" \1 ", text)
        if unwrapped == text:
            break
        text = unwrapped
    text = _SIZE.sub("", _SPACING.sub(" ", text)).replace("\\%", "%").replace("\\$", "$")
    if text.count("$") > 1:
        text = text.replace("$", "")
    text = _DEGREE.sub("°", _PRIME.sub("'", _TIMES.sub("*", text)))
    text = _POWER.sub("^", _QUOTED.sub(r"\2", _STARRED.sub(r"\2", text)))
    text = _BRACED.sub(r"\1\2", _AROUND.sub(r"\1", " ".join(text.split()).casefold()))
    text = _DEGREE_OF.sub(r"°\1", text)
    ended = _EXCLAIMED.sub("", text.strip(" ").rstrip(".;: ")).rstrip(".;: ").lstrip(": ")
    return ended or text.strip(" .;:!")


def _as_fraction(match: re.Match[str]) -> str:
    over, _, under = unicodedata.normalize("NFKC", match[0]).partition("\u2044")
    return rf"\frac{{{over}}}{{{under}}}" if over and under else match[0]


def without_preamble(text: str) -> str:
    """A plain text without `the answer is` and the like before it."""
    return _PREAMBLE.sub("", text, count=1) if _PREAMBLE.match(text) else text


def option_of(reference: str, options: Sequence[str]) -> str | None:
    """The letter of the option that a data set's answer names, by its letter or its text.

    None where it names none, or where letter and text name two: only a letter that is no option's text, and a text
    that one option alone has, are clear.
    """
    text, texts = plain_text(reference), [plain_text(option) for option in options]
    named = {i for i, option in enumerate(texts) if option == text}
    label = _labelled(without_preamble(text), texts)
    if label is not None:
        place, rest = label
        if rest and (text in texts or _is_option(rest, place, texts)):
            named |= set() if text in texts else {place}
        elif not rest:
            named.add(place)
    elif (plain := without_preamble(text)) != text:
        named |= {i for i, option in enumerate(texts) if option == plain}
    return LETTERS[named.pop()] if len(named) == 1 else None


def _labelled(text: str, texts: Sequence[str]) -> tuple[int, str] | None:
    """(place of the option whose letter begins or ends the text, the rest of it), or None."""
    label = _LABEL.fullmatch(text)
    letter, rest = (label[1], label[2]) if label is not None else ("", "")
    if label is None and (behind := _LABEL_BEHIND.fullmatch(text)) is not None:
        rest, letter = behind[1], behind[2]
    place = LETTERS.index(letter.upper()) if letter else len(texts)
    return (place, plain_text(rest)) if place < len(texts) else None


def _is_option(rest: str, place: int, texts: Sequence[str]) -> bool:
    return rest == texts[place] or matches(texts[place], rest) not in ("", "timeout")


def _grade_choice(question: Question, said: str) -> tuple[str, Match]:
    """(reason, what it was recognised by) for a question with options."""
    right = LETTERS.index(question.answer)
    texts = [plain_text(option) for option in question.options]
    text = plain_text(said)
    if text not in texts:
        text = plain_text(without_preamble(text))
    label = _labelled(text, texts) if text not in texts else None
    # A lone letter is a label before it is anything else, unless it is an option's own text.
    if label is None and len(text) == 1 and text in LETTERS.lower()[: len(texts)]:
        label = (LETTERS.lower().index(text), "")
    if label is not None:
        chosen, rest = label
        if not rest or _is_option(rest, chosen, texts):
            return ("right", "letter") if chosen == right else ("wrong", "")
        if _LETTER_LIST.fullmatch(text):
            return "several_options", ""
        return ("several_options" if rest in texts else "no_option"), ""
    same = [i for i, option in enumerate(texts) if option == text]
    if not same:
        if _LETTER_LIST.fullmatch(text) or sum(_holds(text, option) for option in texts) > 1:
            return "several_options", ""
        outcomes: list[Match] = [matches(option, text) for option in question.options]
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
    inside = text[1:-1] if opening else text
    if not opening and exact_number(inside) is not None:
        return None
    numbers = [decimal(part) for part in re.split("[,;]", inside)]
    if len(numbers) < 2 or None in numbers:
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
    if not text or BOX_OPEN in text or _LOOSE_DIGITS.search(text) or "'" in text or '"' in text:
        return False
    bare = _COMMAND.sub(" ", _named_functions(text))
    if re.search(r"[^\W\d_]{2,}", bare):
        return False
    return re.search(r"[0-9]|\\[A-Za-z]|(?<![a-z])[a-z][*/^+-][a-z](?![a-z])", text) is not None


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
