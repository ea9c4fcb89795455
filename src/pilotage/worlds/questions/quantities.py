r"""Plain numbers, units, currencies and times of day, read out of texts that `grading` has made plain.

Numbers are exact fractions: `1.6*10^{-19}` and `3.2*10^{-19}` are as different as 1 and 2, whatever a tolerance says.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from fractions import Fraction

_DIGITS = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.?[0-9]*|\.[0-9]+)"
_NUMBER = re.compile(rf"[-+]?{_DIGITS}")
_GROUPED = re.compile(r"[0-9]{1,3}(?: [0-9]{3})+")
_FACTOR = re.compile(
    rf"""(?P<mixed>[0-9]+)\s*\\frac\{{(?P<over>[0-9]+)\}}\{{(?P<under>[0-9]+)\}}
    | (?P<whole>[0-9]+)[ ](?P<num>[0-9]+)/(?P<den>[0-9]+)
    | \\frac\{{(?P<top>-?{_DIGITS})\}}\{{(?P<bottom>{_DIGITS})\}}
    | (?P<base>{_DIGITS})(?:\^\{{?(?P<exponent>-?[0-9]{{1,4}})\}}?|e(?P<ten>[-+]?[0-9]{{1,4}})|(?P<factorial>!))?""",
    re.VERBOSE,
)
_FRAC = re.compile(r"\\[dt]frac(?![a-z])")
_SHORT_FRAC = re.compile(r"\\frac\s*([0-9])\s*([0-9])(?![0-9])")
MAX_EXPONENT = 400
MAX_FACTORIAL = 200
_WORDS = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *(
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ),
)
WORDS = {word: Fraction(value) for value, word in enumerate(_WORDS)}


def exact_number(text: str) -> Fraction | None:
    """The number that a plain text says, or None.

    Decimals, thousands grouped by commas or spaces, fractions, mixed numbers, powers, factorials, `2e-3`, words up to
    twenty, and products and quotients of these.
    """
    text = _SHORT_FRAC.sub(r"\\frac{\1}{\2}", _FRAC.sub(r"\\frac", text.strip()))
    if text in WORDS:
        return WORDS[text]
    if _GROUPED.fullmatch(text):
        return Fraction(text.replace(" ", ""))
    sign = -1 if text.startswith("-") else 1
    text = text.lstrip("+-") if text[:1] in ("+", "-") else text
    value, operator = Fraction(1), "*"
    place = 0
    while True:
        match = _FACTOR.match(text, place)
        factor = None if match is None else _factor(match)
        if match is None or factor is None or (operator == "/" and not factor):
            return None
        value = value * factor if operator == "*" else value / factor
        place = match.end()
        if place == len(text):
            return sign * value
        if text[place] not in "*/" or abs(value.numerator).bit_length() > 5_000:
            return None
        operator, place = text[place], place + 1


def _factor(match: re.Match[str]) -> Fraction | None:
    if match["mixed"]:
        return _mixed(match["mixed"], match["over"], match["under"])
    if match["whole"]:
        return _mixed(match["whole"], match["num"], match["den"])
    if match["top"]:
        bottom = _plain(match["bottom"])
        return _plain(match["top"]) / bottom if bottom else None
    base = _plain(match["base"])
    if match["factorial"]:
        is_small = base.denominator == 1 and base <= MAX_FACTORIAL
        return Fraction(math.factorial(int(base))) if is_small else None
    exponent = int(match["exponent"] or match["ten"] or 1)
    if abs(exponent) > MAX_EXPONENT or (exponent < 0 and not base and not match["ten"]):
        return None
    if match["ten"]:
        return base * Fraction(10) ** exponent
    return base**exponent if len(match["base"]) < 12 or exponent == 1 else None


def _mixed(whole: str, over: str, under: str) -> Fraction | None:
    """`1 1/2`; None for `1 3/2`, which is not how mixed numbers are written."""
    if not 0 < int(over) < int(under):
        return None
    return int(whole) + Fraction(int(over), int(under))


def _plain(text: str) -> Fraction:
    return Fraction(text.replace(",", ""))


def is_rounded(exact: Fraction, text: str) -> bool:
    """Whether a plain text is the decimal, of four digits or more, to which an endless fraction is rounded."""
    match = re.fullmatch(r"-?[0-9]*\.([0-9]+)", text.strip())
    if match is None or len(text.strip("-").replace(".", "").lstrip("0")) < 4:
        return False
    num_decimals = len(match[1])
    is_longer = (exact * 10**num_decimals).denominator > 1
    return is_longer and abs(exact - Fraction(text.strip())) <= Fraction(1, 2 * 10**num_decimals)


def decimal(text: str) -> Fraction | None:
    """The number of a text that is a decimal and nothing else, as in a list of coordinates; None for another."""
    return _plain(text.strip()) if _NUMBER.fullmatch(text.strip()) else None


# -- units --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A unit of measurement; `factor` times an amount in it gives the dimension's base unit."""

    name: str
    dimension: str
    """Units of one dimension can be converted; of two, they contradict each other."""
    factor: Fraction


_SCALES: dict[str, dict[str, tuple[str, ...]]] = {
    "length": {
        "0.001": ("mm", "millimeter", "millimetre"),
        "0.01": ("cm", "centimeter", "centimetre"),
        "0.1": ("dm", "decimeter", "decimetre"),
        "1": ("m", "meter", "metre"),
        "1000": ("km", "kilometer", "kilometre"),
        "0.0254": ("in", "inch", "inche", '"'),
        "0.3048": ("ft", "foot", "feet", "'"),
        "0.9144": ("yd", "yard"),
        "1609.344": ("mi", "mile"),
    },
    "mass": {
        "0.001": ("mg", "milligram"),
        "1": ("g", "gram"),
        "1000": ("kg", "kilogram", "kilo"),
        "453.59237": ("lb",),
        "28.349523125": ("oz", "ounce"),
        "1000000": ("ton", "tonne"),
    },
    "time": {
        "1": ("s", "sec", "second"),
        "60": ("min", "minute"),
        "3600": ("h", "hr", "hour"),
        "86400": ("day",),
        "604800": ("week",),
    },
    "volume": {"0.001": ("ml", "milliliter", "millilitre"), "1": ("l", "liter", "litre")},
    "dollar": {"1": ("$", "dollar", "usd"), "0.01": ("cent", "¢")},
    "percent": {"0.01": ("%", "percent", "per cent", "pct", "percentage")},
    "angle": {"1": ("°", "degree", "deg")},
}
_ALONE = (
    ("€", "euro", "eur"),
    ("£", "pound", "gbp", "\\pounds"),
    ("¥", "yen", "jpy"),
    ("°c", "degree celsius", "celsius"),
    ("°f", "degree fahrenheit", "fahrenheit"),
    ("n", "newton"),
    ("j", "joule"),
    ("w", "watt"),
    ("year", "yr"),
    ("month",),
    ("unit",),
)
UNITS = {
    name: Unit(name=names[0], dimension=dimension, factor=Fraction(factor))
    for dimension, scale in _SCALES.items()
    for factor, names in scale.items()
    for name in names
} | {name: Unit(name=names[0], dimension=names[0], factor=Fraction(1)) for names in _ALONE for name in names}
_NO_NOUN = frozenset(
    (
        *(
            "and",
            "or",
            "to",
            "of",
            "more",
            "less",
            "fewer",
            "times",
            "squared",
            "cubed",
            "plus",
            "minus",
            "over",
            "mod",
        ),
        *(
            "half",
            "halves",
            "third",
            "thirds",
            "quarter",
            "quarters",
            "dozen",
            "hundred",
            "thousand",
            "million",
        ),
        *("billion", "trillion", "hundreds", "thousands", "millions", "billions", "mod", "not", "but"),
    )
)
"""Words behind a number that make another number of it, or a sentence."""
_AFTER = re.compile(
    r"(?P<value>.*[0-9)}!])(?P<gap>\s*)(?P<unit>(?:(?:square|cubic|sq|cu) )?[a-z°%¢€£¥$'\"][a-z°/. ]{0,30}?)"
    r"(?:\^\{?(?P<power>[23])\}?)?"
)
_CURRENCY = re.compile(r"(?P<unit>[$€£¥]|\\pounds)\s*(?P<value>[-0-9.\\].*)")


def split_unit(text: str) -> tuple[str, Unit | None]:
    """(value, unit) of a plain text; the unit None where there is none. A noun counts as one: `5 apples`.

    Single letters are units behind a space alone: `5m` may be a product.
    """
    if (match := _CURRENCY.fullmatch(text)) is not None:
        return match["value"], UNITS[match["unit"]]
    match = _AFTER.fullmatch(text)
    if match is None:
        return text, None
    said, power = match["unit"].strip(" ."), int(match["power"] or 1)
    for prefix, of_prefix in (("square ", 2), ("sq ", 2), ("cubic ", 3), ("cu ", 3)):
        if said.startswith(prefix):
            said, power = said.removeprefix(prefix), of_prefix
    unit = _named(said)
    if unit is None or (len(said) == 1 and said.isalpha() and not match["gap"]):
        return text, None
    if power > 1:
        unit = Unit(
            name=f"{unit.name}^{power}", dimension=f"{unit.dimension}^{power}", factor=unit.factor**power
        )
    return match["value"].rstrip(), unit


def _named(said: str) -> Unit | None:
    parts = said.replace(" per ", "/").split("/") if said not in UNITS else [said]
    found = [_one_unit(part.strip()) for part in parts]
    units = [unit for unit in found if unit is not None]
    if len(units) < len(found) or not units:
        return None
    if len(units) == 1:
        return units[0]
    name = "/".join(unit.name for unit in units)
    return Unit(name=name, dimension=name, factor=Fraction(1))


def _one_unit(said: str) -> Unit | None:
    if said in UNITS:
        return UNITS[said]
    singular = said.removesuffix("s")
    if len(said) > 2 and singular in UNITS:
        return UNITS[singular]
    if re.fullmatch(r"[a-z]{3,20}", said) and said not in _NO_NOUN and said not in WORDS:
        return Unit(name=singular, dimension=f"noun {singular}", factor=Fraction(1))
    return None


# -- times of day -------------------------------------------------------------------------------------------------

_TIME = re.compile(
    r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2}))?\s*(?:(a|p)\.?\s?m\.?|o'clock)?",
)


def time_of_day(text: str) -> tuple[int, int, int] | None:
    """(hours, minutes, seconds), hours up to 24, of `3:30 pm` and the like; None for anything else."""
    match = _TIME.fullmatch(text)
    if match is None:
        return None
    hours, minutes, seconds = int(match[1]), int(match[2]), int(match[3] or 0)
    if match[4] is not None:
        hours = hours % 12 + (12 if match[4] == "p" else 0)
    return hours, minutes, seconds
