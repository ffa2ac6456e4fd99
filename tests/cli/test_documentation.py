"""The command is installed, and the units of the page on a shared pipeline fit it and each other."""

from __future__ import annotations

import re
import shlex
import tomllib
from configparser import ConfigParser
from pkgutil import resolve_name

from fastapi_aqueduct.cli.main import main, make_parser

from ..support import ROOT


def test_the_units_for_systemd_name_one_socket_in_a_directory_of_its_own() -> None:
    page = (ROOT / "docs" / "shared-pipeline.md").read_text()
    units = []
    for text in re.findall(r"^```ini\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        unit = ConfigParser(delimiters=["="], strict=True)
        unit.optionxform = str  # type: ignore[assignment, method-assign]  # systemd counts the case
        unit.read_string(text)
        units.append(unit)
    pipeline, service = (unit["Service"] for unit in units)
    parsed = make_parser().parse_args(shlex.split(pipeline["ExecStart"])[1:])
    assert (parsed.target, parsed.socket) == ("main:flow", f"/run/{pipeline['RuntimeDirectory']}/flow.sock")
    assert pipeline["RuntimeDirectoryMode"] == "0700"
    assert service["Environment"] == f"AQUEDUCT_PIPELINE=unix:{parsed.socket}"
    assert (service["User"], service["WorkingDirectory"]) == (pipeline["User"], pipeline["WorkingDirectory"])
    assert units[1]["Unit"]["After"] == units[1]["Unit"]["Wants"]


def test_the_command_is_installed_under_the_name_that_it_shows() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {name: resolve_name(target) for name, target in scripts.items()} == {make_parser().prog: main}
