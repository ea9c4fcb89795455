"""Questions of strangers are imported whole or told of, whatever the files hold."""

from __future__ import annotations

import base64
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pilotage.cli.main import main
from pilotage.errors import PilotageError
from pilotage.records import Example
from pilotage.worlds.questions.data.importing import import_vqa, read_row
from pilotage.worlds.questions.data.pictures import BadPictureError, picture_bytes, to_png
from pilotage.worlds.questions.data.store import load_questions
from pilotage.worlds.questions.question import question_of


def picture(
    colour: str = "red", size: tuple[int, int] = (12, 8), form: str = "PNG", mode: str = "RGB"
) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).convert(mode).save(buffer, form)
    return buffer.getvalue()


def text_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


RED = "data:image/png;base64," + text_of(picture())


def row(**changes: Any) -> dict[str, Any]:
    return {"problem": "How many?", "images": [RED], "answer": "4"} | changes


def write(folder: Path, *rows: Any, name: str = "set.jsonl") -> Path:
    path = folder / name
    lines = (x if isinstance(x, str) else json.dumps(x) for x in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problem_of(folder: Path, **changes: Any) -> str:
    with pytest.raises(PilotageError) as error:
        read_row(row(**changes), folder, "hash", None)
    return str(error.value)


def example_of(folder: Path, **changes: Any) -> Example:
    return read_row(row(**changes), folder, "hash", None)


def test_rows_in_every_form_become_questions(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "blue.jpg").write_bytes(picture("blue", form="JPEG"))
    path = write(
        tmp_path,
        row(problem="<image>\nHow many?", solution="Two and two."),
        row(images=["pictures/blue.jpg"], answer=4),
        row(images={"bytes": text_of(picture("green"))}, answer=4.5),
        row(
            images=None,
            image="pictures/blue.jpg",
            problem="Which?",
            options=["A. Rome", "B. Oslo"],
            answer="Oslo",
        ),
        "",
        row(problem="Boxed?", answer=r"$\boxed{\frac{1}{2}}$"),
    )
    report = import_vqa(path, tmp_path / "out", split="test")
    assert report.is_clean and (report.num_read, report.num_imported) == (5, 5)
    assert (report.num_with_options, report.num_with_solution) == (1, 1)
    first, jpeg, green, choice, boxed = load_questions(tmp_path / "out")
    asked = question_of(first)
    assert (asked.text, asked.answer, asked.solution) == ("How many?", "4", "Two and two.")
    assert (first.axes, first.split, first.state) == ({"task": "vqa", "level": 0, "kind": "vqa"}, "test", {})
    assert first.image == picture()  # a PNG in RGB stays as it is
    assert (question_of(jpeg).answer, question_of(green).answer) == ("4", "4.5")
    assert jpeg.image.startswith(b"\x89PNG")
    assert (question_of(choice).options, question_of(choice).answer) == (("Rome", "Oslo"), "B")
    assert question_of(boxed).answer == r"\frac{1}{2}"


def test_parquet_as_datasets_writes_it_is_read(tmp_path: Path) -> None:
    import datasets

    rows = [
        {"problem": f"<image>{i}?", "answer": str(i), "images": [{"bytes": picture(), "path": None}]}
        for i in range(70)
    ]
    rows[3]["answer"] = ""
    features = datasets.Features(
        {
            "problem": datasets.Value("string"),
            "answer": datasets.Value("string"),
            "images": datasets.List(datasets.Image()),
        }
    )
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "set.parquet")
    report = import_vqa(tmp_path / "set.parquet", tmp_path / "out")
    assert (report.num_read, report.num_imported) == (70, 69)
    assert [(note.place, note.note) for note in report.malformed] == [
        ("set.parquet line 4", "answer is empty")
    ]
    questions = load_questions(tmp_path / "out")
    assert len({question.split for question in questions}) == 1  # one picture, one split


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": None}, "problem is null, not a text"),
        ({"problem": 7}, "problem is 7, not a text"),
        ({"problem": " <image> "}, "problem is empty"),
        ({"problem": "<image><image>?"}, "places for several pictures"),
        ({"problem": "Find <image>x<image>"}, "places for several pictures"),
        ({"problem": "<image>Find <|image_pad|>"}, "holds <|image_pad|>, which a tokenizer"),
        ({"problem": "<|vision_start|><|image_pad|><|vision_end|>x?"}, "holds <|vision_start|>"),
        ({"problem": "<image 1> Find x"}, "holds '<image 1>', which reads as the place of a picture"),
        ({"problem": "Find x <image 1> and <image 2>"}, "holds '<image 1>'"),
        ({"problem": "<img>Find y"}, "holds '<img>'"),
        ({"problem": "<image>See <image_2>"}, "holds '<image_2>'"),
        ({"problem": "Look: [image1]"}, "holds '[image1]'"),
        ({"problem": "{image}?"}, "holds '{image}'"),
        ({"problem": "<start_of_image>?"}, "holds '<start_of_image>'"),
        ({"options": ["<image 1>", "<image 2>"], "answer": "A"}, "an option holds '<image 1>'"),
        ({"answer": "<image>"}, "answer holds <image>: the place of a picture is in problem"),
        ({"solution": "In <image> we see"}, "solution holds <image>"),
        ({"problem": "x" * 20_001}, "more than 20000"),
        ({"problem": "go <|im_end|> on"}, "holds <|im_end|>, which a tokenizer"),
        ({"problem": "\ud800?"}, "half of a character"),
        ({"answer": None}, "answer is null"),
        ({"answer": True}, "answer is True"),
        ({"answer": ["4", "5"]}, "answer is an array"),
        ({"answer": " . "}, "answer is empty"),
        ({"answer": r"\boxed{}"}, "answer is empty"),
        ({"answer": "4" * 2001}, "more than 2000"),
        ({"solution": 5}, "solution is 5, not a text"),
        ({"solution": "<|endoftext|>"}, "solution holds <|endoftext|>"),
        ({"options": "A B"}, "not a list of 2 to 26"),
        ({"options": ["one"]}, "not a list of 2 to 26"),
        ({"options": ["one", None]}, "not a list of texts"),
        ({"options": ["one", " "]}, "none is empty"),
        ({"options": ["one", "One."]}, "two options are the same: 'one'"),
        ({"options": ["one", "two"]}, "answer '4' names none of the 2 options"),
        ({"options": ["B", "A"], "answer": "A"}, "names none of the 2 options, or not one alone"),
        ({"images": None}, "the row has no images"),
        ({"images": []}, "the row has 0 images"),
        ({"images": [RED, RED]}, "the row has 2 images"),
        ({"images": [7]}, "the picture is 7"),
        ({"images": [""]}, "the picture is ''"),
        ({"images": ["https://host/x.png"]}, "nothing is fetched"),
        ({"images": ["file:///etc/passwd"]}, "nothing is fetched"),
        ({"images": ["C:\\x.png"]}, "nothing is fetched"),
        ({"images": ["/etc/passwd"]}, "leads out of the file's folder"),
        ({"images": ["../x.png"]}, "leads out of the file's folder"),
        ({"images": ["a/../../x.png"]}, "leads out of the file's folder"),
        ({"images": ["a\0b"]}, "leads out of the file's folder"),
        ({"images": ["x" * 5000]}, "cannot be read"),
        ({"images": ["gone.png"]}, "is missing, or no file"),
        ({"images": ["."]}, "is missing, or no file"),
        ({"images": ["link.png"]}, "leads out of the file's folder"),
        ({"images": ["data:image/png;base64,@@"]}, "the data URL: no base64"),
        ({"images": ["data:image/png;base64,"]}, "the picture is empty"),
        ({"images": [{"bytes": "@"}]}, "bytes: no base64"),
        ({"images": [{"bytes": text_of(b"GIF89a")}]}, "no PNG, JPEG, WEBP, BMP, GIF that can be read"),
        ({"images": [{"bytes": text_of(picture()[:-28])}]}, "that can be read"),
        ({"images": [{"bytes": text_of(picture(form="TIFF"))}]}, "that can be read"),
        ({"images": [{"bytes": text_of(picture(size=(20_000, 1)))}]}, "20000x1 px, more than"),
    ],
)
def test_a_malformed_row_is_told_of(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    (tmp_path / "x.png").write_bytes(picture())
    (folder / "link.png").symlink_to(tmp_path / "x.png")
    assert said in problem_of(folder, **changes)


@pytest.mark.parametrize("text", ["Is x < image y > 3?", "f[i] with images[0]", "an imaginary <i> and {x}"])
def test_words_that_are_no_placeholder_pass(tmp_path: Path, text: str) -> None:
    assert example_of(tmp_path, problem=f"<image>{text}").start.text == text


def test_a_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(picture())
    (tmp_path / "link.png").symlink_to(tmp_path / "x.png")
    assert example_of(tmp_path, images=["link.png"]).image == picture()


def test_a_waiting_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "no file" in problem_of(tmp_path, images=["pipe.png"])


def test_repeated_rows_are_left_out_and_another_answer_is_said(tmp_path: Path) -> None:
    bmp = {"bytes": text_of(picture(form="BMP"))}
    path = write(
        tmp_path, row(), row(problem="How  MANY?", images=[bmp]), row(answer="5"), row(options=["4", "5"])
    )
    report = import_vqa(path)
    assert (report.num_read, report.num_imported) == (4, 2)
    assert [(note.place, note.note) for note in report.duplicates] == [
        ("set.jsonl line 2", "the same picture and question as set.jsonl line 1"),
        ("set.jsonl line 3", "the same picture and question as set.jsonl line 1, with another answer"),
    ]


def test_hostile_lines_cost_themselves_alone(tmp_path: Path) -> None:
    deep = "[" * 100_000
    path = write(tmp_path, row(), "oops", "[1]", deep, '{"problem": NaN}', row(problem="Last?"))
    with path.open("ab") as file:
        file.write(b"\xff\xfe{}\n" + json.dumps(row(problem="Cut?")).encode()[:-5])
    report = import_vqa(path)
    assert (report.num_read, report.num_imported) == (8, 2)
    assert [note.line for note in report.malformed] == [2, 3, 4, 5, 7, 8]


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "no_problem"])
def test_a_damaged_parquet_file_is_told_of_beside_a_whole_one(tmp_path: Path, damage: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row(images=[{"bytes": picture(), "path": None}], problem=f"{i}?") for i in range(40)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    content = (tmp_path / "a.parquet").read_bytes()
    if damage == "no_problem":
        pq.write_table(pa.table({"q": [1]}), tmp_path / "b.parquet")
    else:
        noise = content[:200] + b"\x55" * (len(content) // 2) + content[200 + len(content) // 2 :]
        (tmp_path / "b.parquet").write_bytes({"cut": content[:-50], "noise": noise, "empty": b""}[damage])
    report = import_vqa(tmp_path)
    assert report.num_imported == 40
    assert report.malformed and {note.file for note in report.malformed} <= {"b.parquet"}
    if damage != "noise":
        assert [note.line for note in report.malformed] == [None]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.just(RED),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["bytes", "path", "x"]), inner, max_size=2)
    ),
    max_leaves=6,
)


@given(
    hostile=st.fixed_dictionaries(
        {},
        optional=dict.fromkeys(("problem", "images", "image", "answer", "options", "solution"), json_values),
    )
)
@settings(max_examples=200)
def test_no_row_raises_anything_but_a_clear_error(tmp_path: Path, hostile: dict[str, Any]) -> None:
    for whole in (hostile, row() | hostile):
        try:
            read = read_row(whole, tmp_path, "hash", None)
        except PilotageError as error:
            assert 0 < len(str(error)) < 600
        else:
            assert read.image and question_of(read).answer and question_of(read).text


@given(
    cut=st.integers(0, 200),
    place=st.integers(0, 200),
    byte=st.integers(0, 255),
    form=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "GIF"]),
)
@settings(max_examples=150)
def test_no_damaged_picture_raises_anything_else(cut: int, place: int, byte: int, form: str) -> None:
    content = bytearray(picture(form=form))
    content[place % len(content)] = byte
    try:
        made = to_png(bytes(content[: len(content) - cut % len(content)]))
    except BadPictureError:
        return
    with Image.open(io.BytesIO(made.png)) as image:
        assert image.mode == "RGB" and image.format == "PNG"


def test_pictures_are_upright_on_white_and_no_larger_than_asked() -> None:
    clear = io.BytesIO()
    Image.new("RGBA", (4, 4), (0, 0, 0, 0)).save(clear, "PNG")
    with Image.open(io.BytesIO(to_png(clear.getvalue()).png)) as image:
        assert image.getpixel((1, 1)) == (255, 255, 255)
    turned = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(turned, "JPEG", exif=exif)
    with Image.open(io.BytesIO(to_png(turned.getvalue()).png)) as image:
        assert image.size == (10, 20)
    with Image.open(io.BytesIO(to_png(picture(size=(40, 20)), 10).png)) as image:
        assert image.size == (10, 5)
    assert to_png(picture(form="BMP")).sha256 == to_png(picture()).sha256 != to_png(picture("blue")).sha256
    assert picture_bytes(memoryview(b"x"), Path()) == b"x"


def test_a_png_without_its_end_is_written_anew() -> None:
    whole = to_png(picture()[:-12])  # all pixels are there
    assert whole.png.endswith(b"IEND\xaeB`\x82") and whole.sha256 == to_png(picture()).sha256


def test_nothing_to_import_is_an_error_that_says_why(tmp_path: Path) -> None:
    with pytest.raises(PilotageError, match="does not exist"):
        import_vqa(tmp_path / "gone")
    with pytest.raises(PilotageError, match="no .jsonl or .parquet"):
        import_vqa(tmp_path)
    path = write(tmp_path, row(answer=""))
    with pytest.raises(PilotageError, match="1 were read; the first: set.jsonl line 1: answer is empty"):
        import_vqa(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_reports_and_its_status_tells_of_malformed_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, row(), row(), row(answer="\x1b[31m", options=["1", "2"]))
    out = tmp_path / "out"
    assert main(["data", "import", "vqa", str(path), "--out", str(out)]) == 1
    printed = capsys.readouterr().out
    assert "read 3: imported 1, duplicates 1 (left out), malformed 1" in printed
    assert "malformed: set.jsonl line 3: answer" in printed and "\x1b[31m" not in printed
    report = json.loads((out / "import.json").read_text())
    assert (report["num_imported"], report["num_malformed"], report["num_duplicates"]) == (1, 1, 1)
    assert main(["data", "import", "vqa", str(path), "--out", str(out)]) == 2  # not over what is there
    assert main(["data", "import", "vqa", str(write(tmp_path, row())), "--out", str(out), "--overwrite"]) == 0
