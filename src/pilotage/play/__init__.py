"""Planning by hand: a local page on which a person or a model is given a level, plans, and sees the verdict."""

from pilotage.play.game import Answerer, Reply
from pilotage.play.server import PlayServer

__all__ = ["Answerer", "PlayServer", "Reply"]
