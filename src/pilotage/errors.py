"""Errors that a user can mend. Everything else is a bug of ours and is left to crash."""


class PilotageError(ValueError):
    """A user's input cannot be used; the message names the value, the place and the remedy."""


class ImpossibleRequestError(PilotageError):
    """More distinct states were asked for than exist (or than can be found within the stated number of tries)."""


class BadStateError(PilotageError):
    """A symbolic state is malformed: the message names the field and what it should hold."""
