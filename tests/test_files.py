"""Files are whole or untouched, folders have one writer, and a disk that fails is one line."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pilotage.errors import PilotageError, disk_message, missing_message
from pilotage.files import STALE_S, locked, read_json, whole, write_whole


def test_a_failed_write_leaves_the_old_content_and_nothing_beside_it(tmp_path):
    path = tmp_path / "page.html"
    write_whole(path, "old")
    with pytest.raises(RuntimeError), whole(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "page.html"
    with whole(path) as first, whole(path) as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert path.read_text() == "first"  # the outer block ends last


def test_what_a_kill_left_goes_with_the_next_write_and_a_living_writers_file_stays(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left, living = (tmp_path / f".page.html.{pid}-0a0b0c0d.partial" for pid in (dead.pid, os.getppid()))
    long_ago = time.time() - 2 * STALE_S
    for partial in (left, living):
        partial.write_text("half")
        os.utime(partial, (long_ago, long_ago))
    write_whole(tmp_path / "page.html", "new")
    assert not left.exists()
    assert living.exists()


def test_an_error_names_the_file_that_the_user_named(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "gone" / "page.html", "x")
    message = disk_message(caught.value)
    assert message is not None
    assert message.startswith(f"{tmp_path / 'gone' / 'page.html'}: No such file")


def test_a_path_without_a_name_is_a_folder():
    with pytest.raises(IsADirectoryError):
        write_whole(Path(), "x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), whole(tmp_path / "model") as partial:
        partial.mkdir()
        (partial / "config.json").touch()
        raise RuntimeError
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe", b"[" * 100_000])
def test_damaged_json_is_one_line_with_the_remedy(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(PilotageError, match=r"config\.json is damaged .*: remove it$"):
        read_json(path, remedy="remove it")


def test_json_that_is_missing_or_a_folder_is_one_line(tmp_path):
    with pytest.raises(PilotageError, match=r"x\.json is not there: make it$"):
        read_json(tmp_path / "x.json", remedy="make it")
    with pytest.raises(PilotageError, match=r"cannot be read \(Is a directory\): make it$"):
        read_json(tmp_path, remedy="make it")


def test_a_lock_refuses_a_second_holder_and_is_free_after_the_first(tmp_path):
    lock = tmp_path / "folder" / ".lock"
    with locked(lock, busy="busy"), pytest.raises(PilotageError, match="^busy$"), locked(lock, busy="busy"):
        raise AssertionError("held twice")
    with locked(lock, busy="busy"):
        pass


def test_a_full_disk_has_a_remedy_and_an_unknown_failure_has_none():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/rows.jsonl")
    message = "/data/rows.jsonl: No space left on device: make room and run the same command again"
    assert disk_message(full) == message
    assert disk_message(OSError("what?")) is None


def raised_from(cause: Exception) -> RuntimeError:
    try:
        raise RuntimeError("a library failed") from cause
    except RuntimeError as error:
        return error


def test_what_a_library_wrapped_is_told_and_a_bug_while_a_failure_was_handled_is_not():
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/rows.jsonl")
    assert disk_message(raised_from(full)) == disk_message(full)
    assert missing_message(raised_from(ModuleNotFoundError("", name="trl"))) is not None
    try:
        try:
            raise full
        except OSError:
            raise KeyError("a bug of ours") from None
    except KeyError as error:
        bug = error
    assert bug.__context__ is full and disk_message(bug) is None
    assert disk_message(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_a_missing_extra_is_named_and_our_own_broken_import_is_not():
    assert missing_message(ModuleNotFoundError("", name="torch.nn")) == (
        "this needs torch, which is not installed: pip install 'pilotage[train]'"
    )
    assert missing_message(ModuleNotFoundError("", name="pilotage.nothing")) is None
