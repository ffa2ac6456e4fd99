"""The metadata of the package: what it claims is tested, and what the documentation names is there."""

from __future__ import annotations

import re
import tomllib

import fastapi_aqueduct

from ..support import ROOT

METADATA = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT = METADATA["project"]


def test_the_oldest_and_the_newest_python_that_are_claimed_are_tested() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)'", str(PROJECT["classifiers"]))
    tested = re.findall(r'"(3\.\d+)"', (ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert [tested[0], tested[-1]] == [claimed[0], claimed[-1]]
    assert PROJECT["requires-python"] == f">={claimed[0]}"


def test_each_extra_that_is_named_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:'\.|fastapi-aqueduct)\[(.*?)\]", page.read_text())}
    extras = {extra for names in named for extra in names.split(",")}
    assert "standard" in extras
    assert extras <= PROJECT["optional-dependencies"].keys()


def test_each_requirement_has_a_lower_bound() -> None:
    requirements = PROJECT["dependencies"] + sum(PROJECT["optional-dependencies"].values(), [])
    assert [requirement for requirement in requirements if ">=" not in requirement] == []


def test_the_version_has_one_place_and_its_own_heading_or_is_not_released() -> None:
    assert PROJECT["dynamic"] == ["version"]
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == 1 or headings[1] == fastapi_aqueduct.__version__
