"""The media types that a client accepts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Self, overload

from ..exceptions import InvalidArgument

ANY = "*/*"

_ITEM = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')  # a quote without an end goes on to the end, in linear time
_QUALITY = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


class MIMEAccept:
    """The media types that a client accepts, the most specific first and then the preferred ones.

    Iterates over pairs of a media type and its quality, from 0 to 1. The parameter ``charset`` of a type counts
    nowhere: what hooks make is bytes.

    Args:
        values: The pairs.

    Example:
            media_type = accept.best_match(["application/json", "text/csv"])
    """

    def __init__(self, values: Iterable[tuple[str, float]] = ()) -> None:
        self._items = [(value, quality, _MediaType.parse(value)) for value, quality in values]
        self._items.sort(key=lambda item: (item[2].specificity, item[1]), reverse=True)

    @classmethod
    def parse(cls, header: str) -> Self:
        """Return what a header Accept says. A type without a valid quality is left out.

        Args:
            header: The value of the header.
        """
        found: list[tuple[str, float]] = []
        for item in _ITEM.findall(header):
            value, *parameters = (part.strip(" \t") for part in item.split(";"))
            quality = 1.0
            kept = [value]
            for parameter in parameters:
                name, _, text = parameter.partition("=")
                if name.strip().lower() != "q":
                    kept.append(parameter)
                else:
                    quality = float(text) if _QUALITY.fullmatch(text.strip()) else -1.0
            if value and quality >= 0:
                found.append((";".join(kept), quality))
        return cls(found)

    def quality(self, media_type: str) -> float:
        """Return how much the client wants a media type; 0 if it does not accept it.

        Args:
            media_type: Such as ``"application/json"``.

        Raises:
            InvalidArgument: It is no media type.
        """
        return self._match(media_type)[1]

    def best_match(self, matches: Iterable[str], default: str | None = None) -> str | None:
        """Return the media type that the client prefers; of equal ones the more specific, and then the first.

        Args:
            matches: The types to choose from.
            default: What is returned if the client accepts none.

        Raises:
            InvalidArgument: One is no media type.
        """
        best: tuple[tuple[int, ...], float] = ((), 0.0)
        found = default
        for media_type in matches:
            specificity, quality = self._match(media_type)
            if quality > best[1] or quality == best[1] > 0 and specificity > best[0]:
                best, found = (specificity, quality), media_type
        return found

    @property
    def best(self) -> str | None:
        """The first media type; None if there is none."""
        return self._items[0][0] if self._items else None

    @property
    def accept_json(self) -> bool:
        """Whether the client accepts JSON."""
        return "application/json" in self

    @property
    def accept_html(self) -> bool:
        """Whether the client accepts HTML."""
        return "text/html" in self or self.accept_xhtml

    @property
    def accept_xhtml(self) -> bool:
        """Whether the client accepts XHTML."""
        return "application/xhtml+xml" in self or "application/xml" in self

    def values(self) -> Iterator[str]:
        """Iterate over the media types."""
        return (value for value, _ in self)

    def to_header(self) -> str:
        """Return the value of a header Accept."""
        return ",".join(value if quality == 1 else f"{value};q={quality:g}" for value, quality in self)

    def __contains__(self, media_type: str) -> bool:
        return self.quality(media_type) > 0

    @overload
    def __getitem__(self, key: str) -> float: ...
    @overload
    def __getitem__(self, key: int) -> tuple[str, float]: ...
    def __getitem__(self, key: str | int) -> float | tuple[str, float]:
        return self.quality(key) if isinstance(key, str) else self._items[key][:2]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return ((value, quality) for value, quality, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __str__(self) -> str:
        return self.to_header()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)!r})"

    def _match(self, media_type: str) -> tuple[tuple[int, ...], float]:
        wanted = _MediaType.parse(media_type)
        if not wanted.subtype:
            raise InvalidArgument(f"a media type is of the form application/json, got {media_type!r}")
        for _, quality, item in self._items:
            if item.covers(wanted):
                return item.specificity, quality
        return (), 0.0


class _MediaType(NamedTuple):
    """A media type, or a range of them."""

    kind: str
    subtype: str
    parameters: frozenset[str]

    @classmethod
    def parse(cls, text: str) -> _MediaType:
        name, *parameters = text.lower().split(";")
        kind, _, subtype = name.strip(" \t").partition("/")
        stripped = (parameter.strip(" \t") for parameter in parameters)
        return cls(kind, subtype, frozenset(item for item in stripped if item and not item.startswith("charset=")))

    @property
    def specificity(self) -> tuple[int, ...]:
        return (self.kind != "*", self.subtype != "*", len(self.parameters))

    def covers(self, other: _MediaType) -> bool:
        if (self.kind, self.subtype) == ("*", "*"):
            return True
        return self.kind == other.kind and self.subtype in ("*", other.subtype) and self.parameters <= other.parameters


def accepted(header: str | None, default: str) -> MIMEAccept:
    """Return what a client accepts.

    Args:
        header: The header Accept; None without one.
        default: What counts for a client that accepts anything.
    """
    given = (header or "").strip(" \t")
    return MIMEAccept.parse(default if given in ("", ANY) else given)
