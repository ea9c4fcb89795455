"""A bird's-eye picture of a scene, drawn from the scene alone: any size, no simulator, the same bytes each time.

The car is in the lower third, facing up. What is not known at the time (futures) is never drawn, unless `plans` are
handed over to be drawn on top.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from pilotage.errors import PilotageError
from pilotage.worlds.driving.scene import Point, Scene

REACH_M = 48.0
"""Height and width of what is shown."""
BEHIND = 0.3
"""Share of the height that lies behind the car."""
MIN_SIDE_PX, MAX_SIDE_PX = 16, 4_096
SMOOTH = 2
"""Drawn so many times as large, then made smaller: a lane's edge moves by less than a pixel between two frames."""
TICK_S = 0.5
"""A tick in front of a box shows how far it goes in so long a time."""


@dataclass(frozen=True, kw_only=True)
class Colour:
    """How a thing is drawn, so that prompts and pixels cannot disagree."""

    name: str
    rgb: tuple[int, int, int]


LEGEND: dict[str, Colour] = {
    "ground": Colour(name="dark grey", rgb=(44, 44, 48)),
    "lane": Colour(name="light grey", rgb=(150, 150, 155)),
    "edge": Colour(name="white", rgb=(235, 235, 235)),
    "route": Colour(name="green", rgb=(96, 170, 110)),
    "ego": Colour(name="red", rgb=(220, 50, 47)),
    "other": Colour(name="blue", rgb=(38, 80, 200)),
    "tick": Colour(name="yellow", rgb=(250, 210, 60)),
}
PLAN_RGB: tuple[tuple[int, int, int], ...] = ((255, 140, 0), (255, 255, 255), (200, 80, 220), (0, 200, 220))
"""Of the plans drawn on top, in turn."""


def draw(scene: Scene, side_px: int, *, plans: Sequence[Sequence[Point]] = ()) -> Image.Image:
    """The picture, RGB, `side_px` a side. Raises PilotageError for a side that is none."""
    if isinstance(side_px, bool) or not isinstance(side_px, int) or not MIN_SIDE_PX <= side_px <= MAX_SIDE_PX:
        raise PilotageError(
            f"driving: a picture of {side_px} px a side; choose from {MIN_SIDE_PX} to {MAX_SIDE_PX}"
        )
    large = side_px * SMOOTH
    scale = large / REACH_M

    def px(points: Sequence[Point]) -> list[tuple[float, float]]:
        return [(large / 2 + x * scale, large * (1 - BEHIND) - y * scale) for x, y in points]

    image = Image.new("RGB", (large, large), LEGEND["ground"].rgb)
    pen = ImageDraw.Draw(image)
    thin = max(1, round(0.15 * scale))
    for polygons, fill in ((scene.lanes, "lane"), (scene.route, "route")):
        for polygon in polygons:
            if len(polygon) > 2:
                pen.polygon(px(polygon), fill=LEGEND[fill].rgb)
    for polygon in scene.lanes:
        if len(polygon) > 2:
            pen.line(px([*polygon, polygon[0]]), fill=LEGEND["edge"].rgb, width=thin)
    for one in scene.objects:
        place = one.x, one.y
        pen.polygon(px(box(place, one.heading, one.length, one.width)), fill=LEGEND["other"].rgb)
        _tick(pen, px, place, (one.vx, one.vy), one.heading, one.length, 2 * thin)
    ego = scene.ego
    pen.polygon(px(box((0.0, 0.0), 0.0, ego.length, ego.width)), fill=LEGEND["ego"].rgb)
    _tick(pen, px, (0.0, 0.0), (0.0, ego.speed), 0.0, ego.length, 2 * thin)
    for number, plan in enumerate(plans):
        colour = PLAN_RGB[number % len(PLAN_RGB)]
        pen.line(px([(0.0, 0.0), *plan]), fill=colour, width=2 * thin)
        for x, y in px(plan):
            pen.ellipse((x - 2 * thin, y - 2 * thin, x + 2 * thin, y + 2 * thin), fill=colour)
    return image.resize((side_px, side_px), Image.Resampling.BOX)


def picture(scene: Scene, side_px: int, *, plans: Sequence[Sequence[Point]] = ()) -> bytes:
    """The same as PNG bytes."""
    file = io.BytesIO()
    draw(scene, side_px, plans=plans).save(file, "PNG", compress_level=6)
    return file.getvalue()


def box(place: Point, heading: float, length: float, width: float) -> tuple[Point, Point, Point, Point]:
    """The corners of a box with its middle at a place: front left, front right, rear right, rear left."""
    x, y = place
    sine, cosine = math.sin(heading), math.cos(heading)
    # Forward is (-sine, cosine), to the right is (cosine, sine).
    forward = -sine * length / 2, cosine * length / 2
    right = cosine * width / 2, sine * width / 2
    return (
        (x + forward[0] - right[0], y + forward[1] - right[1]),
        (x + forward[0] + right[0], y + forward[1] + right[1]),
        (x - forward[0] + right[0], y - forward[1] + right[1]),
        (x - forward[0] - right[0], y - forward[1] - right[1]),
    )


def _tick(
    pen: ImageDraw.ImageDraw,
    px: Callable[[Sequence[Point]], list[tuple[float, float]]],
    place: Point,
    velocity: Point,
    heading: float,
    length: float,
    width_px: int,
) -> None:
    """From the middle of the front, as long as the way of half a second; nothing of what stands."""
    begin = place[0] - math.sin(heading) * length / 2, place[1] + math.cos(heading) * length / 2
    end = begin[0] + velocity[0] * TICK_S, begin[1] + velocity[1] * TICK_S
    if math.hypot(*velocity) >= 0.1:
        pen.line(px([begin, end]), fill=LEGEND["tick"].rgb, width=width_px)
