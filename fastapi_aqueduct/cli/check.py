"""The command ``check``: reads a project and says what will not work."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from .migration.array_fields import assignments_into_fields
from .migration.main_modules import globals_of_main, unguarded_starts
from .migration.names import replaced_names, results
from .migration.processes import forks, unpicklable
from .migration.project import Project

BREAKS = 1
"""Exit status when something was found that breaks."""

_RULES = (
    *(unguarded_starts, globals_of_main, assignments_into_fields, forks, unpicklable),
    *(replaced_names, results),
)


class CheckOptions(NamedTuple):
    """The arguments of the command.

    Attributes:
        from_aqueduct: A file or a directory of a project for the package aqueduct.
    """

    from_aqueduct: Path


def check(options: CheckOptions) -> int:
    """Print what works differently in a project for the package aqueduct. The project is read, and not imported.

    Args:
        options: The arguments.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: There is no Python file.
    """
    project = Project.read(options.from_aqueduct)
    findings = sorted({*project.unreadable, *(finding for rule in _RULES for finding in rule(project))})
    for finding in findings:
        print(finding)
    breaking = sum(finding.breaks for finding in findings)
    print(f"{len(project.modules)} files read, {len(findings)} findings, {breaking} of them break")
    return BREAKS if breaking else 0
