"""Pictures of strangers: which of them a model can be shown, and how any of them becomes RGB.

One rule for what is imported, for what a data set made elsewhere holds, and for what reaches an image processor.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

from PIL import Image, ImageOps

from pilotage.errors import PilotageError

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF")
MAX_PIXELS = 40_000_000
MAX_SIDE_PX = 16_384
MIN_SIDE_PX = 4
"""Fewer px a side, in a data set, are the stand-in of a picture that is gone."""
MAX_ASPECT = 200
"""The longer side over the shorter that Qwen-VL's image processor takes."""
_PNG_HEAD = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_GREY = 0
"""PNG's colour type of pictures with one grey value a pixel."""
# Pillow would make every value above 255 white; and whether 65535 is white or, as in 12-bit files, 4095, no file says.
_DEEP_GREY = (
    "the picture is grey with more than 8 bits a pixel, which nothing shows as it is: save it with 8 bits"
)


class BadPictureError(PilotageError):
    """A picture cannot be used; the message does not say whose it is."""


def check_size(width: int, height: int, *, min_side_px: int = 1) -> None:
    """Raises BadPictureError for a size that no model can be shown, or that is below what is wanted."""
    size = f"the picture has {width}x{height} px"
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        raise BadPictureError(f"{size}, more than {MAX_PIXELS} or {MAX_SIDE_PX} a side")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadPictureError(f"{size}, sides of more than {MAX_ASPECT} to 1, which no image processor takes")
    if min(width, height) < min_side_px:
        raise BadPictureError(f"{size}, fewer than {min_side_px} a side")


def check_png(png: bytes) -> None:
    """Raises BadPictureError where the head of the file is not that of a PNG that can be shown. Nothing is decoded."""
    if not png.startswith(_PNG_HEAD) or len(png) < len(_PNG_HEAD) + 10:
        raise BadPictureError("the picture is no PNG file")
    width, height, depth, colour = struct.unpack_from(">IIBB", png, len(_PNG_HEAD))
    check_size(width, height, min_side_px=MIN_SIDE_PX)
    if depth == 16 and colour == _GREY:
        raise BadPictureError(_DEEP_GREY)


@contextmanager
def opened(
    content: bytes, formats: tuple[str, ...] = FORMATS, *, min_side_px: int = 1
) -> Iterator[Image.Image]:
    """The decoded picture, of several frames the first.

    Raises BadPictureError, and nothing else, for what cannot be read or shown, in the block as well.
    """
    try:
        with Image.open(io.BytesIO(content), formats=formats) as image:
            check_size(*image.size, min_side_px=min_side_px)
            if image.mode.startswith(("I", "F")):
                raise BadPictureError(_DEEP_GREY)
            image.load()
            yield image
    except BadPictureError:
        raise
    except (
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        EOFError,
        struct.error,
        zlib.error,
        Image.DecompressionBombError,
    ) as error:
        problem = " ".join(str(error).split())[:120]
        # The library's message may hold the address of an object in memory, which is of no use and never the same.
        problem = re.sub(r"<_io\.\w+ object at 0x[0-9a-f]+>", "", problem).strip()
        raise BadPictureError(
            f"the picture is no {', '.join(formats)} that can be read ({problem})"
        ) from None


def as_rgb(image: Image.Image) -> Image.Image:
    """The picture as a viewer shows it: turned upright, transparent parts white."""
    upright = ImageOps.exif_transpose(image)
    if upright.has_transparency_data:
        layered = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered)
    return upright.convert("RGB")


def read_rgb(content: bytes) -> Image.Image:
    """The picture in RGB. Raises BadPictureError, and nothing else."""
    with opened(content) as image:
        return image if image.mode == "RGB" and "transparency" not in image.info else as_rgb(image)
