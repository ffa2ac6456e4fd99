"""What hooks raise to refuse a request."""

from __future__ import annotations

from typing import ClassVar

from ..exceptions import AqueductError


class InvocationError(AqueductError):
    """A hook refuses the request (400): the client gets the text of the exception, and no traceback is logged.

    Attributes:
        status: The HTTP status.
    """

    status: ClassVar[int] = 400


class UnsupportedContentType(InvocationError):
    """The body has a Content-Type that `input_fn` does not read (415)."""

    status = 415


class NotAcceptable(InvocationError):
    """The client accepts no media type in which `output_fn` can write the prediction (406)."""

    status = 406
