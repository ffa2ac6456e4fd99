"""What the hooks of a model declare: the media types that they read and write, and how it wants its batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..exceptions import InvalidArgument
from .accept import MIMEAccept
from .errors import NotAcceptable, UnsupportedContentType
from .plugins import HookManager


class Contract(NamedTuple):
    """What the hooks of a model declare.

    Attributes:
        content_types: The media types that `input_fn` reads, such as ``image/*``; empty: any.
        media_types: The media types that `output_fn` writes; empty: that is not known before.
        batch_strategy: How many records a request of a Batch Transform job has.
        max_concurrent: Its requests that should come at once; None: as many as the workers have in hand.
        max_payload: Megabytes that such a request may have.
    """

    content_types: tuple[str, ...]
    media_types: tuple[str, ...]
    batch_strategy: str
    max_concurrent: int | None
    max_payload: int

    @classmethod
    def of(cls, manager: HookManager) -> Contract:
        """Return what hooks declare.

        Args:
            manager: The hooks.
        """
        hook = manager.hook
        strategy = hook.batch_strategy()
        return cls(
            _declared(_hints(function).get("content_type") for function in manager.functions("input_fn")),
            _declared(_media_type(_hints(function).get("return")) for function in manager.functions("output_fn")),
            str(getattr(strategy, "value", strategy)),
            hook.max_concurrent_transforms() if manager.functions("max_concurrent_transforms") else None,
            hook.max_payload_in_mb(),
        )

    def check(self, content_type: str | None, accept: MIMEAccept) -> None:
        """Refuse a request for its headers.

        Args:
            content_type: The header Content-Type.
            accept: What the client accepts.

        Raises:
            UnsupportedContentType: The hooks do not read such a body.
            NotAcceptable: They write nothing that the client accepts.
        """
        if self.content_types:
            if not _is_one_of(self.content_types, content_type or ""):
                raise UnsupportedContentType(
                    f"The Content-Type must be {' or '.join(self.content_types)}, not {content_type or 'missing'}."
                )
        if self.media_types:
            check_acceptable(self.media_types, accept)


def check_acceptable(media_types: Iterable[str], accept: MIMEAccept) -> None:
    """Refuse a request for what its client accepts.

    Args:
        media_types: Those that there are.
        accept: What the client accepts.

    Raises:
        NotAcceptable: It accepts none of them.
    """
    types = tuple(media_types)
    if accept.best_match(types) is None:
        raise NotAcceptable(f"The prediction can be written as {' or '.join(types)}, and not as {accept}.")


def _is_one_of(content_types: Iterable[str], found: str) -> bool:
    try:
        return found in MIMEAccept((item, 1.0) for item in content_types)
    except InvalidArgument:  # it is no media type
        return False


def _declared(annotations: Iterable[Any]) -> tuple[str, ...]:
    """List the texts of literals; empty if there is another annotation, which may stand for any text."""
    found: dict[str, None] = {}
    for annotation in annotations:
        if get_origin(annotation) is not Literal:
            return ()
        found.update(dict.fromkeys(item for item in get_args(annotation) if isinstance(item, str)))
    return tuple(found)


def _hints(function: Any) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except Exception:
        return {}  # names for the type checker only


def _media_type(annotation: Any) -> Any:
    parts = get_args(annotation) if get_origin(annotation) is tuple else ()
    return parts[1] if len(parts) == 2 else None
