"""A world that misbehaves where its examples say so, and only once each: what `pilotage.worlds.remote` is tried on.

It lies outside the package: `install` writes it into a folder with the metadata of a package of one's own. An example's
`data` is `num_turns`, and where it misbehaves `does` (a name in `MISDEEDS`), `at` (the number of the act, from 1) and
`marker`, a file: once it is there, the example behaves.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from pilotage.records import Condition, Example, Measure, Observation, Outcome, Privileged, Split

SECRET = "the treasure is under the third tree"


def install(folder: Path) -> Path:
    """The folder, to be put on sys.path: this module, and metadata that registers its world."""
    info_dir = folder / "misbehaving_world-1.0.dist-info"
    info_dir.mkdir(parents=True)
    (info_dir / "METADATA").write_text("Metadata-Version: 2.1\nName: misbehaving-world\nVersion: 1.0\n")
    (info_dir / "entry_points.txt").write_text(
        "[pilotage.worlds]\nmisbehaving = misbehaving_world:Misbehaving\n"
    )
    for name in ("misbehaving_world", "misbehaving_views"):
        shutil.copy(Path(__file__).with_name(f"{name}.py"), folder)
    return folder


@contextmanager
def installed(folder: Path) -> Iterator[Path]:
    """The folder where it is installed, and found by this process and those that it starts, while the block runs."""
    import pytest

    from pilotage.views import registry as views
    from pilotage.worlds import registry

    def forget() -> None:
        for known in (registry.places, registry._opened, registry._installed, views._of_packages):
            known.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        install(folder)
        patch.syspath_prepend(folder)
        paths = filter(None, (str(folder), os.environ.get("PYTHONPATH")))
        patch.setenv("PYTHONPATH", os.pathsep.join(paths))
        forget()
        yield folder
    forget()


def example(number: int, *, num_turns: int = 3, **data: Any) -> Example:
    return Example(
        id=f"misbehaving-{number}",
        world="misbehaving",
        split="test",
        start=Observation(
            text=f"{number}", images=(png(number),), privileged=Privileged(state={"secret": SECRET})
        ),
        data={"num_turns": num_turns, **data},
        hidden={"answer": SECRET},
    )


def png(number: int, side_px: int = 8) -> bytes:
    """A picture of one colour."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    head = struct.pack(">IIBBBBB", side_px, side_px, 8, 0, 0, 0, 0)
    rows = (b"\0" + bytes([number % 256]) * side_px) * min(side_px, 8)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def write_everywhere(raw: bytes) -> None:
    """To every pipe that this process can write to: one of them is the protocol's."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        try:
            if fd > 2 and stat.S_ISFIFO(os.fstat(fd).st_mode):
                os.write(fd, raw)
        except OSError:
            continue


def forged(text: bytes) -> bytes:
    return struct.pack(">4sII", b"plt1", len(text), 0) + text


def chatter() -> None:
    print("x" * 100_000, flush=True)
    os.write(1, b"y" * 100_000)
    os.system("echo from a process of its own")
    assert sys.stdin.read() == ""


def hang_with_a_child() -> None:
    child = subprocess.Popen(["sleep", "600"])
    Path(os.environ["PIDS"]).write_text(f"{os.getpid()} {child.pid}")
    time.sleep(600)


def fail() -> None:
    raise RuntimeError("the simulator\nlost its level")


MISDEEDS: dict[str, Callable[[], object]] = {
    "hang": lambda: time.sleep(600),
    "hang_with_a_child": hang_with_a_child,
    "exit": lambda: os._exit(3),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "garbage": lambda: write_everywhere(b"Loading map... 100 %\n"),
    "huge_frame": lambda: write_everywhere(struct.pack(">4sII", b"plt1", 2**31, 2**31)),
    "not_json": lambda: write_everywhere(forged(b"[" * 100_000)),
    "false_answer": lambda: write_everywhere(forged(b'{"id":99999,"ok":{"reward":1},"sizes":[]}')),
    "false_sizes": lambda: write_everywhere(forged(b'{"id":2,"ok":{"reward":1},"sizes":[5,-5]}')),
    "raise": fail,
    "give_up": lambda: sys.exit("no licence"),
    "chatter": chatter,
    "huge_picture": lambda: None,
    "wide_picture": lambda: None,
}


class Misbehaving:
    name = "misbehaving"
    title = "Misbehaving"
    roles = ("walk", "look")
    reasons = ("success", "cut")
    measures = (Measure(name="num_acts", title="acts", bounds=None, is_flag=False),)
    conditions = (Condition(name="image", title="from the picture", views={"walk": "student"}),)
    usual = ("image",)
    answer_form = "text"
    views_module = "misbehaving_views"

    def examples(self, count: int, split: Split, seed: int = 0) -> list[Example]:
        """The one numbered 1 does always, at its first act, what the variable MISDEED says."""
        return list(self.making(count, split, seed))

    def making(self, count: int, split: Split, seed: int = 0) -> Iterator[Example]:
        """The same one by one. Before the one numbered 1 comes what the variable MAKING says, once where MAKING_MARKER
        names a file: until that is there."""
        does = os.environ.get("MISDEED")
        bad = {"does": does, "at": 1, "marker": os.devnull, "always": True} if does else {}
        for number in range(count):
            making, marker = os.environ.get("MAKING"), os.environ.get("MAKING_MARKER")
            if number == 1 and making and not (marker and Path(marker).exists()):
                if marker:
                    Path(marker).touch()
                MISDEEDS[making]()
            yield replace(example(number, **(bad if number == 1 else {})), split=split)

    def open(self, example: Example, *, role: str | None = None, strict: bool = False) -> MisbehavingSession:
        if "num_turns" not in example.data:
            from pilotage.errors import PilotageError

            raise PilotageError(f"{example.id} has no num_turns")
        return MisbehavingSession(example, role or "walk", strict)


class MisbehavingSession:
    def __init__(self, example: Example, role: str, strict: bool) -> None:
        self.example, self.said, self.shows = example, [f"{role} {strict}"], ""

    def observe(self) -> Observation | None:
        if len(self.said) > self.example.data["num_turns"]:
            return None
        number = int(self.example.start.text) + len(self.said)
        picture = {"huge_picture": lambda: bytes(2**21), "wide_picture": lambda: png(number, 60_000)}
        return Observation(
            text=f"{self.example.id}: {self.said[-1]}",
            images=(picture.get(self.shows, lambda: png(number))(),),
            privileged=Privileged(state={"secret": SECRET, "number": number}, plan=("DIG",)),
        )

    def act(self, text: str) -> float | None:
        self.said.append(text)
        self.shows = ""
        data = self.example.data
        if data.get("at") == len(self.said) - 1:
            marker = Path(data["marker"])
            if not marker.exists() or data.get("always"):
                marker.touch()
                self.shows = data["does"]
                MISDEEDS[data["does"]]()
        return len(self.said) / 4

    def outcome(self) -> Outcome:
        over = len(self.said) > self.example.data["num_turns"]
        return Outcome(
            success=over,
            reason="success" if over else "cut",
            measures={"num_acts": len(self.said) - 1},
            notes={"said": " ".join(self.said)},
        )

    def close(self) -> None:
        pass
