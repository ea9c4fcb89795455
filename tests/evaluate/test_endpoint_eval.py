"""`pilotage eval --endpoint`: the probe, the key, failures in every figure, and kills at random moments."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from misbehaving import (
    Handler,
    completion,
    cuts_the_body,
    echoes_the_key,
    in_turn,
    says,
    sends,
    serving,
    well,
)
from pilotage.cli.main import main
from pilotage.evaluate.usage import usage_of

KEY = "sk-very-secret-0123456789"
GOOD = "<answer>R</answer>"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def eval_(url: str, out: Path, *more: str, model: str = "good") -> int:
    quick = ["--num", "2", "--retries", "1", "--timeout", "5", "--concurrency", "4"]
    return main(["eval", "--endpoint", url, "--model", model, "--out", str(out), *quick, *more])


def rows(out: Path, condition: str = "image") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "eval" / f"base.{condition}.jsonl").read_text().splitlines()]


def needs_image(handler: Handler, body: dict[str, Any]) -> None:
    """A model of words alone."""
    has_image = any(not isinstance(message["content"], str) for message in body["messages"])
    (says(400, "image_url is not supported by this model") if has_image else well("yes"))(handler, body)


def test_rows_summary_and_cost_of_an_endpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(well(GOOD)) as server:
        status = eval_(server.url, tmp_path, "--conditions", "image", "--price-in", "2", "--price-out", "10")
    assert status == 0
    kept = rows(tmp_path)
    assert len(kept) == 6 and len(server.requests) == 7  # one of them the probe
    assert kept[0]["response"] == GOOD and kept[0]["served_model"] == "good-1"
    assert kept[0]["settings"]["endpoint"] == {"url": server.url}
    assert kept[0]["num_tokens"] == 7 and kept[0]["usage"] == {"prompt_tokens": 100, "completion_tokens": 7}
    assert "base64" not in (tmp_path / "eval" / "base.image.jsonl").read_text()
    usage = json.loads((tmp_path / "eval" / "base.summary.json").read_text())["usage"]
    # 600 tokens in at 2 per million and 42 out at 10 per million.
    assert usage["cost"] == pytest.approx(0.00162)
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["num_reported"]) == (600, 42, 6)
    assert "tokens: 600 in, 42 out; cost 0.0016" in capsys.readouterr().out


def test_tokens_that_nobody_reported_are_counted_as_unknown() -> None:
    usage = usage_of([{"usage": {"prompt_tokens": 3}}, {"usage": {}}, {"error": "x"}])
    assert (usage.num_rows, usage.num_reported, usage.prompt_tokens) == (3, 1, 3)
    assert usage.cost(price_in=1e6, price_out=1.0) == 3.0


@pytest.mark.parametrize(
    ("behaviour", "model", "message"),
    [
        (says(401, "Incorrect API key"), "good", "wants a key (HTTP 401: Incorrect API key)"),
        (says(403, "no access"), "good", "wants a key"),
        (says(404, "The model `bad` does not exist"), "bad", "has no model 'bad'"),
        (says(400, "unknown model"), "bad", "it serves good"),
        (says(404), "good", "did not answer the probe: HTTP 404"),
        (needs_image, "good", "answers text but takes no images (HTTP 400: image_url is not supported"),
        (says(500, "CUDA out of memory"), "good", "did not answer the probe: HTTP 500: CUDA out of memory"),
        (sends(b"<html>hi</html>", kind="text/html"), "good", "is not JSON"),
        (says(402, "insufficient credits"), "good", "insufficient credits"),
    ],
)
def test_what_would_fail_every_request_is_one_line_before_any_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], behaviour: Any, model: str, message: str
) -> None:
    with serving(behaviour) as server:
        status = eval_(server.url, tmp_path / "run", model=model)
    err = capsys.readouterr().err
    assert status == 2 and err.count("\n") == 1 and message in err
    assert not (tmp_path / "run").exists()
    assert len(server.requests) <= 6


def test_nothing_listening_is_said_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as server:
        url = server.url
    assert eval_(url, tmp_path / "run") == 2
    assert f"nothing answers at {url}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_refused_key_is_said_without_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with serving(says(401, f"Incorrect API key provided: {KEY}")) as server:
        assert eval_(server.url, tmp_path / "run") == 2
    err = capsys.readouterr().err
    assert "refused the key" in err and "[key]" in err and KEY not in err


def test_the_probe_learns_how_a_server_wants_to_be_asked(tmp_path: Path) -> None:
    def fussy(handler: Handler, body: dict[str, Any]) -> None:
        if "max_tokens" in body:
            says(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")(
                handler, body
            )
        elif "seed" in body:
            says(400, "Unknown parameter: 'seed'")(handler, body)
        else:
            well(GOOD)(handler, body)

    with serving(fussy) as server:
        assert (
            eval_(server.url, tmp_path, "--conditions", "text", "--temperature", "0.5", "--samples", "2") == 0
        )
    assert [bool(row["error"]) for row in rows(tmp_path, "text")] == [False] * 12
    assert server.requests[-1]["max_completion_tokens"] == 2048


def test_a_finished_run_needs_no_server(tmp_path: Path) -> None:
    with serving(well(GOOD)) as server:
        eval_(server.url, tmp_path, "--conditions", "text")
        url = server.url
    assert eval_(url, tmp_path, "--conditions", "text", "--resume") == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("eval", "give a model"),
        ("eval nano --endpoint http://h/v1 --model m", "give a model"),
        ("eval --endpoint http://h/v1", "needs --model"),
        ("eval nano --model m", "goes with --endpoint"),
        ("eval --endpoint http://k@h/v1 --model m", "credentials"),
        ("eval --endpoint http://h/v1 --model m --key-env NO_SUCH_VARIABLE", "NO_SUCH_VARIABLE"),
        ("eval --endpoint http://h/v1 --model m --extra-body [1]", "--extra-body must be a JSON object"),
        (
            'eval --endpoint http://h/v1 --model m --extra-body {"seed":1}',
            "--extra-body must be a JSON object",
        ),
        ("eval --endpoint http://h/v1 --model m --resume --out NOWHERE", "no rows of base to go on from"),
        ("eval --endpoint http://h/v1 --model m --concurrency 0", "concurrency 0"),
        ("eval --endpoint http://h/v1 --model m --samples 2", "give a temperature"),
    ],
)
def test_options_that_do_not_fit_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    assert main([*arguments.replace("NOWHERE", str(tmp_path)).split(), "--num", "2"]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1


def test_the_key_is_in_no_file_and_no_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    behave = in_turn(echoes_the_key, echoes_the_key, says(400, f"no: {KEY}"), says(500, KEY), cuts_the_body)
    with serving(choose=behave) as server:
        assert eval_(server.url, tmp_path, "--conditions", "image", "--key-env", "MY_KEY") == 0
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"[key]" in written and KEY.encode() not in written
    out, err = capfd.readouterr()
    assert KEY not in out + err


def test_failures_count_are_told_and_only_those_of_transport_are_asked_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty = sends(completion(""))
    # The probe, then one after the other: right, refused, empty, and the last three cut.
    behave = in_turn(well(GOOD), well(GOOD), says(400, "too long"), empty, cuts_the_body)
    with serving(choose=behave) as server:
        assert (
            eval_(server.url, tmp_path, "--conditions", "image", "--concurrency", "1", "--retries", "0") == 0
        )
        captured = capsys.readouterr()
        assert "5 rows failed and count as failures: 1 empty, 1 refused, 3 transport" in captured.out
        assert "5 failed" in captured.err
        error_kinds = Counter(row["error_kind"] for row in rows(tmp_path))
        assert error_kinds == {None: 1, "refused": 1, "empty": 1, "transport": 3}
        summary = json.loads((tmp_path / "eval" / "base.summary.json").read_text())
        tasks = summary["conditions"]["image"]["tasks"]
        assert sum(task["num_errors"] for task in tasks.values()) == 5
        assert all(task["n"] == 2 for task in tasks.values())
        asked = len(server.requests)
        server.behave = lambda *_: well(GOOD)
        assert eval_(server.url, tmp_path, "--conditions", "image", "--resume") == 0
        assert len(server.requests) - asked == 1 + 3
    error_kinds = Counter(row["error_kind"] for row in rows(tmp_path))
    assert error_kinds == {None: 4, "refused": 1, "empty": 1}


NURSERY = """
import os, signal, sys
from pathlib import Path
from pilotage.evaluate import evaluate
from pilotage.rollouts.endpoint import EndpointConfig, EndpointEngine
from pilotage.worlds.grids.views import VIEWS
from synthetic_run import make_examples

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job would ignore it
examples = make_examples(8)
for example in examples:  # what a process pays for once, no life shall pay for
    VIEWS["student"](example, "brief"), VIEWS["symbolic"](example, "brief")
config = EndpointConfig(url=sys.argv[1], model="good", concurrency=4, first_wait_s=0.01)
for _ in sys.stdin:
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            evaluate(EndpointEngine(config), examples, stage="base", prompts="brief", max_new_tokens=5,
                     out=Path(sys.argv[2]), model="good", conditions=("image", "text"), temperature=0.5, samples=2)
            status = 0
        finally:
            os._exit(status)
    print(pid, flush=True)
    print(os.waitpid(pid, 0)[1], flush=True)
"""
"""Imports everything once; for each line that it is told, a child of it evaluates: prints its pid, then how it ended.
"""
NUM_ROWS = 2 * 24 * 2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_moments_every_row_is_there_exactly_once(
    tmp_path: Path, how: signal.Signals
) -> None:
    """A slow server with faults among its answers; each life of the evaluation is cut short."""
    rng = random.Random(int(how))

    def choose(number: int, body: dict[str, Any]) -> Any:
        return cuts_the_body if number % 5 == 4 else well(f"answer {number}", after_s=0.03)

    folder = tmp_path / "eval"
    kept: set[str] = set()
    num_killed = 0
    with serving(choose=choose) as server, nursery(server.url, tmp_path) as answer:
        while len(kept) < NUM_ROWS and num_killed < 60:
            pid = int(answer())
            time.sleep(rng.uniform(0.0, 0.4))
            with contextlib.suppress(ProcessLookupError):  # it was done already
                os.kill(pid, how)
            num_killed += int(answer()) != 0
            now = whole_lines(folder)
            assert kept <= now, "a finished row was lost"
            kept = now
        answer()
        assert int(answer()) == 0, "a life that nobody cuts short ends well"
    assert num_killed >= 3
    found = [json.loads(line) for file in folder.glob("*.jsonl") for line in file.read_text().splitlines()]
    assert len(found) == NUM_ROWS
    assert len({(row["condition"], row["id"], row["sample"]) for row in found}) == NUM_ROWS
    assert not any(row["error"] for row in found)


@contextlib.contextmanager
def nursery(url: str, out: Path) -> Iterator[Callable[[], str]]:
    """A function that gives NURSERY's next line, and starts a life when the last one has ended."""
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY, url, str(out)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdin is not None and process.stdout is not None
    lines = itertools.count()

    def answer() -> str:
        assert process.stdin is not None and process.stdout is not None
        if next(lines) % 2 == 0:
            process.stdin.write("\n")
            process.stdin.flush()
        return process.stdout.readline()

    try:
        yield answer
    finally:
        process.stdin.close()
        process.wait(timeout=30)


def whole_lines(folder: Path) -> set[str]:
    return {line for path in folder.glob("*.jsonl") for line in path.read_text().split("\n")[:-1]}
