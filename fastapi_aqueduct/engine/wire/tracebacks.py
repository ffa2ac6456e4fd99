"""Encodes the frames of a traceback in a worker, and rebuilds them in the API process.

The result is a real traceback: log formatters show its source lines, and error trackers group by the line of the
handler. Its frames have a file, a function and a line, and neither variables nor callers, so an exception that is kept
does not keep the task alive.
"""

from __future__ import annotations

import functools
import itertools
from types import CodeType, FunctionType, TracebackType
from typing import TypeAlias

MAX_FRAMES = 30
"""Maximum number of frames: half of them from the handler's end, half from where the exception was raised."""

_WORKER = __name__.split(".engine.")[0] + ".engine.child."
_NO_COLUMNS = -1, -1


Place: TypeAlias = tuple[str, str, int, int, int, int]
"""The position of a frame: file; qualified name of the function; first and last line of the expression; first byte in
the first line and the byte after the last one in the last line, both -1 where they are not known. A plain tuple: a
named one would be pickled through its reducer."""

Frames: TypeAlias = list[tuple[str, Place]]
"""The frames of a traceback, outermost first, each with the name of its module."""


def list_frames(traceback: TracebackType | None) -> Frames:
    """List the frames of a traceback, without the worker's own outer frames."""
    while traceback is not None and _module(traceback).startswith(_WORKER):
        traceback = traceback.tb_next
    chain: list[TracebackType] = []
    while traceback is not None:
        chain.append(traceback)
        traceback = traceback.tb_next
    if len(chain) > MAX_FRAMES:
        half = MAX_FRAMES // 2
        chain = chain[:half] + chain[-half:]
    return [(_module(entry), _place(entry)) for entry in chain]


def build_traceback(frames: Frames) -> TracebackType | None:
    """Return a traceback with the frames of a worker."""
    traceback: TracebackType | None = None
    for module, place in reversed(frames):
        code, instruction = _code_at(place)
        _, _, line, *_ = place
        # The frame of a generator that was not started. The frame of a running function keeps its callers, and with
        # them the task whose failure is decoded.
        frame = FunctionType(code, {"__name__": module})().gi_frame
        traceback = TracebackType(traceback, frame, instruction, line)
    return traceback


def _module(traceback: TracebackType) -> str:
    return str(traceback.tb_frame.f_globals.get("__name__", ""))


def _place(traceback: TracebackType) -> Place:
    code = traceback.tb_frame.f_code
    line = traceback.tb_lineno or 1
    index = max(traceback.tb_lasti, 0) // 2
    found = next(itertools.islice(code.co_positions(), index, None), (None,) * 4)
    start, end_line, column, end_column = found
    if start != line or end_line is None or column is None or end_column is None:
        end_line, (column, end_column) = line, _NO_COLUMNS
    return code.co_filename, code.co_qualname, line, end_line, column, end_column


@functools.lru_cache(maxsize=1024)
def _code_at(place: Place) -> tuple[CodeType, int]:
    """Return the code of a generator whose only statement is at a place, and the offset of its instruction."""
    import ast  # not needed in a worker

    filename, function, line, end_line, column, end_column = place
    tree = ast.parse("def function(): yield")
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt | ast.expr):
            node.lineno, node.end_lineno = line, end_line
            node.col_offset, node.end_col_offset = column, end_column
    module = compile(tree, filename, "exec")
    (code,) = [const for const in module.co_consts if isinstance(const, CodeType)]
    code = code.replace(co_name=function.rpartition(".")[2], co_qualname=function)
    columns = (None, None) if column < 0 else (column, end_column)
    wanted = line, end_line, *columns
    return code, 2 * next((index for index, found in enumerate(code.co_positions()) if found == wanted), 0)
