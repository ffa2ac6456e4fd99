"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from .files import env_text
from .plots import limits_plot, plots_of
from .result import Findings
from .wording import memory_text, percent_text, rate_text, seconds_text, step_words, verdict

_TEMPLATE = "report.html.jinja"


def write_report(findings: Findings, path: Path) -> None:
    """Write the report.

    Args:
        findings: What was found.
        path: The file.

    Raises:
        OSError: It cannot be written.
    """
    environment = Environment(
        loader=PackageLoader(__package__, "."),
        autoescape=select_autoescape(default=True, default_for_string=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "seconds": seconds_text,
        "rate": rate_text,
        "memory": memory_text,
        "difference": percent_text,
    }
    found = findings.recommendation
    text = environment.get_template(_TEMPLATE).render(
        findings=findings,
        recommended=found,
        verdict=list(verdict(findings)),
        env=env_text(findings),
        limits=None if found is None else Markup(limits_plot(found.capacity.limits, found.capacity.bottleneck)),
        steps=[
            (step, list(step_words(step)), [(title, Markup(plot)) for title, plot in plots_of(step)])
            for step in findings.steps
        ],
        sizes={step.name: step.size_option for step in findings.steps},
        runs=[("its own settings", findings.before), ("the recommended settings", findings.after)],
        written=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
    )
    path.write_text(text, encoding="utf-8")
