"""The process that compares two mathematical texts: started by `math_compare` beside it, killed when it hangs.

A line of standard input is `["gold", "said"]`; the answer is a line `true` or `false`. Both texts are read as LaTeX by
math-verify's grammar, which builds expressions and evaluates no Python: its other reader, which does, is never used.

A question may take `CPU_S` seconds of processor time and `MEMORY_BYTES` in all. The alarm's default action ends the
process even inside one long multiplication, and waiting for a busy machine does not count.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from typing import Any

CPU_S = 5.0
MEMORY_BYTES = 4 * 2**30


FAR = 5e-6
"""Numbers that differ by more than this share of the larger one are different, however small both are."""


def main() -> int:
    """Compares what comes in, line by line, until there is no more; the exit status."""
    limit_memory()
    set_alarm = alarm()
    logging.disable(logging.CRITICAL)
    from math_verify import parse, verify
    from math_verify.parser import LatexExtractionConfig
    from sympy import Basic, MatrixBase, S

    latex = (LatexExtractionConfig(),)
    bad = (S.NaN, S.ComplexInfinity, S.EmptySet)

    def read(text: str) -> object | None:
        # Their timeouts are Unix alarms of whole seconds; ours is set around the whole question.
        found = parse(f"${text}$", extraction_config=latex, fallback_mode="no_fallback", parsing_timeout=None)  # pyright: ignore[reportArgumentType]
        expression = found[0] if found else None
        if not isinstance(expression, Basic | MatrixBase) or expression in bad:
            return None
        return expression

    reply("ready")
    for line in sys.stdin:
        gold_text, said_text = json.loads(line)
        set_alarm(CPU_S)
        gold, said = read(gold_text), read(said_text)
        equal = (
            gold is not None
            and said is not None
            and bool(verify(gold, said, timeout_seconds=None))  # pyright: ignore[reportArgumentType]
            and not _are_far(gold, said)
        )
        set_alarm(0.0)
        reply(json.dumps(equal))
    return 0


def _are_far(gold: Any, said: Any) -> bool:
    """Whether two numbers, or numbers at the same place of two lists or intervals, differ by their own measure.

    The library compares after rounding to six decimals: 10^-9 and 10^-10 are the same to it. What has symbols in it is
    compared with numbers in their place; where nothing can be told, the library's word stands.
    """
    from sympy import Expr, FiniteSet, Integer, Interval, Tuple

    if isinstance(gold, FiniteSet) and isinstance(said, FiniteSet):
        members: list[Any] = [*gold, *said]
        are_numbers = all(member.is_number and member.is_real for member in members)
        both = (members[: len(gold)], members[len(gold) :]) if are_numbers else ([], [])
        pairs = list(zip(*(sorted(part, key=lambda number: number.evalf(40)) for part in both), strict=False))
    elif isinstance(gold, Interval | Tuple) and isinstance(said, Interval | Tuple):
        pairs = list(zip(gold.args, said.args, strict=False))
    else:
        pairs = [(gold, said)]
    for one, other in pairs:
        if not (isinstance(one, Expr) and isinstance(other, Expr)):
            continue
        names = sorted(one.free_symbols | other.free_symbols, key=str)
        values = [
            (name, Integer(prime) / 11) for name, prime in zip(names, (13, 17, 19, 23, 29), strict=False)
        ]
        numbers = [expression.subs(values).evalf(40) for expression in (one, other)]
        if all(number.is_number and number.is_finite for number in numbers):
            size = max(abs(number) for number in numbers)
            if abs(numbers[0] - numbers[1]) > FAR * size:
                return True
    return False


def reply(line: str) -> None:
    """Writes one line to the parent at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def limit_memory() -> None:
    """At most MEMORY_BYTES of address space; nothing where the system knows no such limit."""
    try:
        import resource
    except ImportError:  # Windows: the parent's patience is the only limit there.
        return
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    soft = MEMORY_BYTES if hard == resource.RLIM_INFINITY else min(MEMORY_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def alarm() -> Callable[[float], object]:
    """A function that ends this process after that many seconds of processor time; 0 calls it off."""
    import signal

    if not hasattr(signal, "setitimer"):
        return lambda seconds: None
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    return lambda seconds: signal.setitimer(signal.ITIMER_PROF, seconds)


if __name__ == "__main__":
    sys.exit(main())
