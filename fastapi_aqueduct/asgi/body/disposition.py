"""The names in a Content-Disposition header: that of a field, and that of a file.

Browsers write names as in the HTML standard for forms: in quotes, with ``%22``, ``%0D`` and ``%0A`` for a quotation
mark and the ends of lines, and with every other percent sign as it is. Other clients escape with a backslash, or send a
second name that is encoded (``filename*``, RFC 8187), which RFC 6266 prefers.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from python_multipart.multipart import parse_options_header

from ..errors import MalformedBody

MAX_SEMICOLONS = 300
"""Semicolons that a header may have. Each makes a parameter. A file name of 255 characters may have as many: a browser
writes ``&#1087;`` for a character that the encoding of the page does not know."""

_ESCAPED = re.compile("%(22|0[Dd]|0[Aa])")
# Up to the end where the second quotation mark is missing: otherwise the search would start again at each mark.
_QUOTED = re.compile(r'"(?:[^"\\]|\\.?)*(?:"|$)', re.DOTALL)
_EXTENDED = re.compile(r";\s*filename\*\s*=\s*(utf-8|iso-8859-1)'[^';]*'([^;\s]*)", re.IGNORECASE)


class Disposition(NamedTuple):
    """The names in a Content-Disposition header.

    Attributes:
        name: Name of the field; None when there is none.
        filename: Name of the file; None when there is none.
    """

    name: str | None
    filename: str | None


def parse_disposition(header: str | bytes | bytearray | None) -> Disposition:
    """Read the names in a header.

    Raises:
        MalformedBody: It has more parameters than any client sends.
    """
    text = header if isinstance(header, str) else bytes(header or b"").decode("latin-1")
    _, options = options_of(text)
    return Disposition(_plain(options.get(b"name")), _extended(text) or _plain(options.get(b"filename")))


def options_of(header: str) -> tuple[bytes, dict[bytes, bytes]]:
    """Split a header into its value and its parameters.

    Raises:
        MalformedBody: It has more parameters than any client sends.
    """
    if header.count(";") > MAX_SEMICOLONS:
        raise MalformedBody(f"A header has more than {MAX_SEMICOLONS} parameters.")
    return parse_options_header(header)


def filename_of(header: str | None) -> str | None:
    """Return the name of the file in a header; None when there is none."""
    return parse_disposition(header).filename


def decoded(data: bytes | bytearray) -> str:
    """Decode a name or a field as browsers and Starlette do."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _plain(value: bytes | None) -> str | None:
    if value is None:
        return None
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)), decoded(value))


def _extended(text: str) -> str | None:
    if "*" not in text:
        return None
    found = _EXTENDED.search(_QUOTED.sub('""', text))
    if found is None:
        return None
    try:
        return unquote_to_bytes(found[2]).decode(found[1])
    except UnicodeDecodeError:
        return None
