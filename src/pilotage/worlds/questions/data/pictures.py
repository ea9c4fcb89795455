"""Pictures of strangers' questions: found beside their file or inside it, bounded, and turned into PNG."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from PIL import Image

from pilotage.pictures import MIN_SIDE_PX, BadPictureError, as_rgb, check_size, opened
from pilotage.worlds.grid import shorten

MAX_PICTURE_BYTES = 32 * 2**20
_PNG_END = b"IEND\xaeB`\x82"
_ORIENTATION = 0x0112
_DATA_URL = re.compile(r"data:image/[a-zA-Z0-9.+-]{1,30};base64,")
_URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]*:")


def picture_bytes(value: Any, folder: Path) -> bytes:
    """The bytes that a row's picture stands for. Raises BadPictureError, and nothing else.

    `value` is bytes, an object with `bytes` or `path` as `datasets` writes it, a data URL, or a path relative to
    `folder` that does not leave it. Nothing is fetched.
    """
    if isinstance(value, dict):
        held = value.get("bytes")
        if isinstance(held, str):  # in JSON lines
            return _from_base64(held, "bytes")
        value = value.get("path") if held is None else held
    if isinstance(value, bytes | bytearray | memoryview):
        return _bounded(bytes(value))
    if not isinstance(value, str) or not value:
        raise BadPictureError(
            f"the picture is {shorten(value)}, neither bytes, nor a path, nor a data URL of an image"
        )
    if match := _DATA_URL.match(value):
        return _from_base64(value[match.end() :], "the data URL")
    if _URL.match(value):
        raise BadPictureError(
            f"the picture is at {shorten(value)}: nothing is fetched; store it beside the file"
        )
    return _file_bytes(value, folder)


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture that was checked, as PNG bytes."""

    png: bytes
    sha256: str
    """Over size and pixels: the same for the same picture in whatever file."""


def to_png(picture: bytes, max_side_px: int | None = None) -> Picture:
    """The picture as PNG in RGB: turned upright, transparent parts white, the first one of several frames.

    A whole PNG file that is that already is kept as it is; `max_side_px` shrinks what is larger.
    Raises BadPictureError, and nothing else.
    """
    with opened(picture, min_side_px=MIN_SIDE_PX) as image:
        shrink = max_side_px is not None and max(image.size) > max_side_px
        is_plain = image.mode == "RGB" and not shrink and "transparency" not in image.info
        is_upright = image.getexif().get(_ORIENTATION, 1) == 1
        if image.format == "PNG" and is_plain and is_upright and picture.endswith(_PNG_END):
            return Picture(png=picture, sha256=_pixel_hash(image))
        rgb = as_rgb(image)
        if shrink:
            rgb.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)  # pyright: ignore[reportArgumentType]
            check_size(*rgb.size, min_side_px=MIN_SIDE_PX)
        buffer = io.BytesIO()
        rgb.save(buffer, "PNG", compress_level=3)
        return Picture(png=buffer.getvalue(), sha256=_pixel_hash(rgb))


def _pixel_hash(rgb: Image.Image) -> str:
    return hashlib.sha256(b"%d %d " % rgb.size + rgb.tobytes()).hexdigest()


def _from_base64(text: str, where: str) -> bytes:
    try:
        return _bounded(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError) as error:
        if isinstance(error, BadPictureError):
            raise
        raise BadPictureError(f"{where}: no base64") from None


def _bounded(picture: bytes) -> bytes:
    if not picture:
        raise BadPictureError("the picture is empty")
    if len(picture) > MAX_PICTURE_BYTES:
        raise BadPictureError(f"the picture has {len(picture)} bytes, more than {MAX_PICTURE_BYTES}")
    return picture


def _file_bytes(name: str, folder: Path) -> bytes:
    outside = (
        f"the picture's path {shorten(name)} leads out of the file's folder; only paths inside it are read"
    )
    if "\0" in name or PurePosixPath(name).is_absolute() or PureWindowsPath(name).drive:
        raise BadPictureError(outside)
    try:
        path = (folder / name).resolve()
        if not path.is_relative_to(folder.resolve()):
            raise BadPictureError(outside)
        if not path.is_file():
            raise BadPictureError(f"the picture {shorten(name)} is missing, or no file")
        with path.open("rb") as file:
            return _bounded(file.read(MAX_PICTURE_BYTES + 1))
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, BadPictureError):
            raise
        raise BadPictureError(
            f"the picture {shorten(name)} cannot be read ({getattr(error, 'strerror', None) or error})"
        ) from None
