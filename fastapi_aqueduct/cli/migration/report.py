"""What works differently in a project for the package aqueduct, as lines of text."""

from __future__ import annotations

from pathlib import Path

from .array_fields import assignments_into_fields
from .main_modules import globals_of_main, unguarded_starts
from .names import replaced_names, results
from .processes import forks, unpicklable
from .project import Project

BREAKS = 1
"""Exit status when something was found that breaks."""

_RULES = (
    *(unguarded_starts, globals_of_main, assignments_into_fields, forks, unpicklable),
    *(replaced_names, results),
)


def report(path: Path) -> int:
    """Print what works differently in a project for the package aqueduct. The project is read, and not imported.

    Args:
        path: A file or a directory of the project.

    Returns:
        The exit status.

    Raises:
        ConfigurationError: There is no Python file.
    """
    project = Project.read(path)
    findings = sorted({*project.unreadable, *(finding for rule in _RULES for finding in rule(project))})
    for finding in findings:
        print(finding)
    breaking = sum(finding.breaks for finding in findings)
    print(f"{len(project.modules)} files read, {len(findings)} findings, {breaking} of them break")
    return BREAKS if breaking else 0
