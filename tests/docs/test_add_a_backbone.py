"""`docs/add-a-backbone.md` does what it says: its family, installed from outside, is measured and checked."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from family_models import PIXELS, SIDE_PX, VISION, Tiny, save_tiny
from outside import ROOT, installed, run_in
from pilotage.backbones.base import forget_family, model_types, register_family
from pilotage.backbones.processed import ProcessorFamily

PAGE = (ROOT / "docs" / "add-a-backbone.md").read_text(encoding="utf-8")
LLAVA = Tiny(
    model_type="llava",
    text={"model_type": "llama"},
    vision=VISION | {"model_type": "clip_vision_model"},
    config={"vision_feature_select_strategy": "default", "vision_feature_layer": -1},
    place="<image>",
    named={"image_token": "<image>"},
    image_token="<image>",
    image_processor="CLIPImageProcessorPil",
    pixels=PIXELS
    | {"size": {"height": SIDE_PX, "width": SIDE_PX}, "crop_size": {"height": SIDE_PX, "width": SIDE_PX}},
    settings={"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1},
)


def file_of(title: str) -> str:
    [text] = re.findall(rf'^```python title="{title}"\n(.*?)^```$', PAGE, re.MULTILINE | re.DOTALL)
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's reader works: the family installed, the check written, a model."""
    folder = tmp_path_factory.mktemp("page")
    [group, point] = re.findall(
        r'^```toml\n\[project.entry-points."(.*?)"\]\n(.*?)\n```$', PAGE, re.MULTILINE
    )[0]
    installed(folder, "my_llava", file_of("my_llava.py"), group, point.replace('"', ""))
    (folder / "check_family.py").write_text(file_of("check_family.py"))
    space: dict[str, ProcessorFamily] = {}
    exec(file_of("my_llava.py"), space)
    register_family(space["FAMILY"])
    save_tiny(LLAVA, folder / "models" / "llava")
    forget_family(space["FAMILY"])
    return folder


def run(folder: Path, command: str) -> str:
    assert f"\n    {command}\n" in PAGE
    program, *arguments = shlex.split(command)
    module = ["-m", "pilotage.cli"] if program == "pilotage" else []
    return run_in(folder, *module, *arguments)


def test_its_command_measures_such_a_model(folder: Path) -> None:
    [command] = re.findall(r"^    (pilotage eval .*)$", PAGE, re.MULTILINE)
    run(folder, command)
    assert len((folder / "runs" / "llava" / "eval" / "base.image.jsonl").read_text().splitlines()) == 2 * 3


def test_its_check_says_what_the_page_says(folder: Path) -> None:
    printed = run(folder, "python check_family.py models/llava")
    again, other = map(float, re.findall(r": (\S+) nats apart", printed))
    assert again < 1e-5 and other > 1e-3


def test_its_table_names_every_family_that_ships() -> None:
    rows = re.findall(
        r"^\| (`[\w`, ]+`) \| [^|]+ \| [^|]+ \|$", PAGE.partition("## One file")[0], re.MULTILINE
    )
    assert sorted(re.findall(r"`(\w+)`", " ".join(rows[1:]))) == sorted(model_types())


def test_its_table_names_what_a_family_may_say() -> None:
    names = re.findall(r"^\| `(\w+)` \|", PAGE.partition("## What a family says")[2], re.MULTILINE)
    assert names and all(
        hasattr(ProcessorFamily, name) or name in ProcessorFamily.__annotations__ for name in names
    )
