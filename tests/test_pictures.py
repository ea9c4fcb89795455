"""Pictures in every form that strangers keep them in: shown as a viewer shows them, or refused with the reason."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pilotage.backbones.encode import encode_images, encode_views
from pilotage.data.source import picture_problem
from pilotage.errors import PilotageError
from pilotage.pictures import BadPictureError, check_png, read_rgb
from pilotage.rollouts import Decoding
from pilotage.rollouts.stream import Request, answers
from pilotage.rollouts.transformers_engine import TransformersEngine
from pilotage.worlds.questions.data.pictures import to_png
from tiny import image_view, picture, tiny_backbone

RED, GREY_OF_RED, WHITE, BLUE = (255, 0, 0), (76, 76, 76), (255, 255, 255), (0, 0, 255)


def flag() -> Image.Image:
    """White, its upper left corner red and its lower right one blue."""
    pixels = np.full((64, 96, 3), 255, np.uint8)
    pixels[:16, :16], pixels[-16:, -16:] = RED, BLUE
    return Image.fromarray(pixels)


def saved(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def clear() -> Image.Image:
    """The flag with black behind all that is white, which is transparent."""
    pixels = np.asarray(flag().convert("RGBA")).copy()
    pixels[(pixels[..., :3] == 255).all(axis=2)] = 0
    return Image.fromarray(pixels)


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def deep_grey(white: int) -> bytes:
    return saved(Image.fromarray((np.arange(64 * 96).reshape(64, 96) % white).astype(np.uint16)))


def head_of(width: int, height: int, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG file that says it has this size, and has no pixels."""
    head = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head))
    return b"\x89PNG\r\n\x1a\n" + chunks + b"\0\0\0\0IEND\xaeB`\x82"


READ: dict[str, tuple[Callable[[], bytes], Any, tuple[int, int]]] = {
    "rgb": (lambda: saved(flag()), RED, (0, 0)),
    "palette": (lambda: saved(flag().quantize(4)), RED, (0, 0)),
    "palette with transparency": (lambda: saved(flag().quantize(4), transparency=0), WHITE, (40, 30)),
    "rgba": (lambda: saved(clear()), RED, (0, 0)),
    "rgba, transparent black": (lambda: saved(clear()), WHITE, (40, 30)),
    "rgb with a transparent colour": (lambda: saved(flag(), transparency=BLUE), WHITE, (95, 63)),
    "grey": (lambda: saved(flag().convert("L")), GREY_OF_RED, (0, 0)),
    "grey with transparency": (lambda: saved(flag().convert("LA")), GREY_OF_RED, (0, 0)),
    "bilevel": (lambda: saved(flag().convert("1")), (0, 0, 0), (95, 63)),
    "cmyk": (lambda: saved(flag().convert("CMYK"), "JPEG", quality=100), RED, (2, 2)),
    # A viewer turns these: the corner that is stored first is shown at another place.
    "exif, turned right": (lambda: saved(flag(), "JPEG", quality=100, exif=turned(6)), RED, (61, 2)),
    "exif, upside down": (lambda: saved(flag(), exif=turned(3)), RED, (95, 63)),
    "animated": (
        lambda: saved(flag(), "GIF", save_all=True, append_images=[Image.new("RGB", (96, 64))]),
        RED,
        (0, 0),
    ),
    "webp": (lambda: saved(flag(), "WEBP", lossless=True), RED, (0, 0)),
    "bmp": (lambda: saved(flag(), "BMP"), RED, (0, 0)),
}

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "16-bit grey": (lambda: deep_grey(65536), "grey with more than 8 bits a pixel.*save it with 8 bits"),
    "12-bit grey in 16": (lambda: deep_grey(4096), "grey with more than 8 bits a pixel"),
    "float": (
        lambda: saved(Image.new("F", (96, 64)), "TIFF"),
        "no PNG, JPEG, WEBP, BMP, GIF that can be read",
    ),
    "vector": (lambda: b'<svg xmlns="http://www.w3.org/2000/svg"/>', "that can be read"),
    "cut": (lambda: saved(flag(), "JPEG")[:-300], "[Tt]runcated"),
    "thin": (lambda: saved(Image.new("RGB", (1000, 2))), "1000x2 px, sides of more than 200 to 1"),
    "bomb": (lambda: head_of(8000, 8000), "8000x8000 px, more than 40000000"),
}


@pytest.mark.parametrize("kind", READ)
def test_a_picture_is_what_a_viewer_shows(kind: str) -> None:
    make, colour, place = READ[kind]
    with Image.open(io.BytesIO(to_png(make()).png)) as image:
        assert image.mode == "RGB"
        np.testing.assert_allclose(np.asarray(image)[place[::-1]], colour, atol=3)
    # A data set made elsewhere may hold the file as it was.
    if "exif" not in kind:
        np.testing.assert_allclose(np.asarray(read_rgb(make()))[place[::-1]], colour, atol=3)


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_shown_is_refused_with_the_reason(kind: str) -> None:
    make, reason = REFUSED[kind]
    for read in (to_png, read_rgb):
        with pytest.raises(BadPictureError, match=reason):
            read(make())


@pytest.mark.parametrize(
    ("png", "reason"),
    [
        (b"", "no PNG file"),
        (saved(flag(), "JPEG"), "no PNG file"),
        (saved(flag())[:20], "no PNG file"),
        (head_of(16_000, 16_000), "more than 40000000"),
        (head_of(1000, 2), "more than 200 to 1"),
        (head_of(0, 9), "0x9 px"),
        (deep_grey(65536), "more than 8 bits"),
    ],
)
def test_the_head_of_a_file_tells_what_cannot_be_shown(png: bytes, reason: str) -> None:
    with pytest.raises(BadPictureError, match=reason):
        check_png(png)
    check_png(saved(flag()))


def test_shrinking_makes_no_picture_that_cannot_be_shown() -> None:
    with pytest.raises(BadPictureError, match="100x1 px|100x2 px"):
        to_png(saved(Image.new("RGB", (1000, 12))), 100)


def test_a_level_s_own_picture_has_8_bits() -> None:
    assert "more than 8 bits" in picture_problem(saved(Image.fromarray(np.zeros((64, 64), np.uint16))))
    assert picture_problem(saved(clear().resize((64, 64)))) == ""


def test_no_processor_is_given_what_it_cannot_take() -> None:
    backbone = tiny_backbone()
    thin = np.zeros((2, 1000, 3), np.uint8)
    with pytest.raises(
        PilotageError, match=r"image 1: the picture has 1000x2 px, sides of more than 200 to 1"
    ):
        encode_images(backbone, [picture(2), thin])
    views = [image_view(saved(flag())), image_view(deep_grey(65536))]
    with pytest.raises(PilotageError, match=r"level-7, .*: the picture is grey with more than 8 bits"):
        encode_views(backbone, views, names=["level-3", "level-7"])


def test_a_picture_that_no_processor_takes_costs_its_own_row_alone() -> None:
    thin = saved(Image.new("RGB", (1000, 2)))
    requests = [
        Request(view=view, example_id=name)
        for name, view in (("good", image_view(saved(flag()))), ("thin", image_view(thin)))
    ]
    good, bad = answers(TransformersEngine(tiny_backbone()), requests, Decoding(max_new_tokens=2))
    assert good.error is None and bad.rollout is None
    assert "thin, view 'student': the picture has 1000x2 px" in str(bad.error)


def test_a_data_set_s_picture_is_no_stand_in() -> None:
    with pytest.raises(BadPictureError, match="1x1 px, fewer than 4 a side"):
        to_png(saved(Image.new("RGB", (1, 1))))
