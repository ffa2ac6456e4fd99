"""How a flow is named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct.cli.target import ModuleFailed, find_flow

from . import targets

MODULE = targets.__name__


def test_a_flow_is_found_by_its_name_and_behind_what_runs_it() -> None:
    assert find_flow(f"{MODULE}:pages", None) is targets.pages
    assert find_flow(f"{MODULE}:pages", "pages") is targets.pages
    assert find_flow(f"{MODULE}:Holder.flow", None) is targets.Holder.flow
    assert find_flow(f"{MODULE}:stars", None) is targets.stars.flow
    assert find_flow(f"{MODULE}:single", None) is targets.pages
    assert find_flow(f"{MODULE}:both", "words") is targets.words
    assert find_flow(f"{MODULE}:app", "words") is targets.words


@pytest.mark.parametrize(
    ("target", "flow", "message"),
    [
        (f"{MODULE}:both", None, "has 2 flows: pages, words; choose one"),
        (f"{MODULE}:both", "ocr", "has no flow 'ocr', but pages, words"),
        (f"{MODULE}:number", None, "is 3: name a flow, a function of in_worker, a pool, an Aqueduct, or an app"),
        (f"{MODULE}:nothing", None, "has no nothing"),
        (f"{MODULE}:Holder.nothing", None, "has no Holder.nothing"),
        (f"{MODULE}.nothing:flow", None, r"there is no module .*targets\.nothing in the current directory"),
        ("main", None, "is given as MODULE:NAME, such as main:flow, got 'main'"),
        (":flow", None, "is given as MODULE:NAME"),
    ],
)
def test_what_names_no_single_flow_is_refused_in_words(target: str, flow: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        find_flow(target, flow)


def test_a_module_that_lacks_another_one_has_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lacks_another.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleFailed, match="lacks_another cannot be imported: .* named 'not_installed_any") as raised:
        find_flow("lacks_another:flow", None)
    assert isinstance(raised.value.__cause__, ModuleNotFoundError)
