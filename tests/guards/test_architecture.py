"""The page on the architecture names every module of the package, and no other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..support import ROOT

PACKAGE = ROOT / "fastapi_aqueduct"
PAGE = (ROOT / "docs" / "architecture.md").read_text()


def modules_of_the_package() -> list[str]:
    paths = (path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
    return sorted(paths)


def modules_of_the_tree() -> Iterator[str]:
    """Read the tree of the page: two spaces for each level, a folder ends with a slash."""
    folders: list[str] = []
    tree = re.search(r"^```text\nfastapi_aqueduct/\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    assert tree is not None
    for line in tree[1].splitlines():
        indent, name = re.findall(r"^( *)(\S+)", line)[0]
        del folders[len(indent) // 2 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            yield "".join([*folders, name])


def test_the_tree_has_every_module_once() -> None:
    assert sorted(modules_of_the_tree()) == modules_of_the_package()


def test_the_modules_in_the_text_exist() -> None:
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", PAGE)
    assert named
    assert [name for name in named if not Path(PACKAGE, name).is_file()] == []


def test_the_folders_in_the_text_exist() -> None:
    folders = {path.parent.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    names = {part for folder in folders for part in (folder, folder.rpartition("/")[2])}
    assert [name for name in re.findall(r"`((?:[a-z_]+/)+)`", PAGE) if name.rstrip("/") not in names] == []
