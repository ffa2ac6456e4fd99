"""Finds the texts at which an answer stops, also where they come in several pieces."""


class StopText:
    """Passes on the pieces of an answer up to the first stop text.

    Args:
        stops: The texts at which the answer stops.

    Attributes:
        has_stopped: Whether one of them has come.
    """

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.has_stopped = False
        self._stops = stops
        self._held = ""

    def add(self, piece: str) -> str:
        """Add a piece, and return the text that cannot belong to a stop text any more."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self.has_stopped = True
            self._held = ""
            return text[: min(found)]
        held = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def rest(self) -> str:
        """Return the text that was held back, at the end of the answer."""
        rest, self._held = self._held, ""
        return rest


def _overlap(text: str, stop: str) -> int:
    """Return how many characters at the end of a text are the beginning of a stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((length for length in range(longest, 0, -1) if text.endswith(stop[:length])), 0)
