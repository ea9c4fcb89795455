"""A bar at a terminal; in a log a line now and then, with what is done, the rate and the time left."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from pilotage.cli import progress
from pilotage.cli.demo import LiveTable
from pilotage.cli.progress import Bar


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A log that has a line every few milliseconds."""
    log = io.StringIO()
    monkeypatch.setattr(progress, "BEAT_S", 0.005)
    monkeypatch.setattr(progress, "_stderr", lambda: Console(file=log, width=120))
    return log


def wait_for(log: io.StringIO, words: str) -> str:
    """The first line with these words, as soon as it is there."""
    for _ in range(1000):
        for line in log.getvalue().splitlines():
            if words in line:
                return line
        time.sleep(0.005)
    raise AssertionError(f"{words!r} is not in {log.getvalue()!r}")


def test_a_log_has_a_line_before_anything_is_counted(beats):
    with Bar("sft", unit="steps"):
        assert wait_for(beats, "so far").startswith("sft: 0:0")


def test_a_log_tells_what_is_done_how_fast_it_goes_and_what_is_left(beats, monkeypatch):
    with Bar("sft", unit="steps") as bar:
        clock = [100.0]
        bar._progress.get_time = lambda: clock[0]
        for done in (10, 11, 12):  # it goes on from step 10: what an earlier run did has no rate
            bar(done, 320, {"loss": 0.3125, "other": 1.0})
            clock[0] += 20.0
        line = wait_for(beats, "12 of 320 steps")
    assert line.startswith("sft: 12 of 320 steps, 0.05 steps/s, 102:40 left, 0:0")
    assert line.endswith(" so far, loss 0.312")


def test_a_log_ends_with_what_was_done_and_a_command_that_does_nothing_says_nothing(beats, monkeypatch):
    monkeypatch.setattr(progress, "BEAT_S", 60.0)
    with Bar("eval", unit="rows"):
        pass
    assert beats.getvalue() == ""
    with Bar("eval", unit="rows") as bar:
        bar(0, 6, "image")
        bar(6, 6, "image")
    assert beats.getvalue().startswith("eval: 6 of 6 rows, ") and beats.getvalue().count("\n") == 1


def test_a_terminal_has_a_bar_and_no_lines(monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(progress, "BEAT_S", 0.001)
    monkeypatch.setattr(progress, "_stderr", lambda: Console(file=shown, width=120, force_terminal=True))
    with Bar("sft", unit="steps") as bar:
        bar(1, 2)
        time.sleep(0.02)
    assert "so far" not in shown.getvalue()
    assert "1/2" in shown.getvalue()


def test_the_demo_in_a_log_tells_which_stage_it_is_in(beats):
    with LiveTable(["maze"], Console(file=beats, width=100)) as table:
        table.stage_begins("stage1", 320)
        table.trained("stage1", 3, 320, {"loss": 0.25})
        line = wait_for(beats, "3 of 320")
    assert line.startswith("Stage 1, training: 3 of 320") and line.endswith("loss 0.25")
