"""Planning by hand: a local page on which a person or a model is given a level, plans, and sees the verdict."""

from pilotage.play.episode import ByHand
from pilotage.play.game import Answerer, Reply
from pilotage.play.server import EpisodeServer, PlayServer

__all__ = ["Answerer", "ByHand", "EpisodeServer", "PlayServer", "Reply"]
