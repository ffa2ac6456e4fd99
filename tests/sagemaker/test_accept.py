"""What a client accepts, read from its header."""

from __future__ import annotations

import pytest

from fastapi_aqueduct.exceptions import InvalidArgument
from fastapi_aqueduct.sagemaker import MIMEAccept
from fastapi_aqueduct.sagemaker.accept import accepted

HTML, JSON, CSV = "text/html", "application/json", "text/csv"


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (JSON, JSON),
        ("Application/JSON", JSON),
        ("*/*", JSON),
        ("text/*", CSV),
        ("text/csv;q=0.5, application/json", JSON),
        ("text/csv, application/json;q=0.9", CSV),
        ("*/*;q=0.1, text/csv", CSV),
        ("text/csv;q=0.5, */*;q=0.5", CSV),  # the more specific of equal ones
        ("application/json;q=0, */*", CSV),
        ("application/json; charset=utf-8", JSON),
        ("text/csv;header=present", None),
        ("application/json;q=high, text/csv;q=0.1", CSV),
        ('image/png;name="a,b;c", text/csv', CSV),
        ("image/png", None),
        ("application/json;q=0", None),
        (",;,", None),
    ],
)
def test_the_best_type_of_those_that_there_are(header: str, wanted: str | None) -> None:
    assert MIMEAccept.parse(header).best_match([JSON, CSV]) == wanted


def test_the_first_of_equal_types_and_the_default() -> None:
    accept = MIMEAccept.parse("*/*")
    assert accept.best_match([CSV, JSON]) == CSV
    assert MIMEAccept.parse("image/png").best_match([CSV], default=JSON) == JSON


def test_the_questions_of_output_fn() -> None:
    accept = MIMEAccept.parse("text/html;q=0.8, application/json;charset=utf-8")
    assert (accept.accept_json, accept.accept_html, accept.accept_xhtml) == (True, True, False)
    assert MIMEAccept.parse("application/xhtml+xml").accept_html
    assert accept.best == "application/json;charset=utf-8"
    assert accept[HTML] == accept.quality(HTML) == 0.8
    assert accept[1] == (HTML, 0.8)
    assert HTML in accept and CSV not in accept and len(accept) == 2
    assert list(accept) == [("application/json;charset=utf-8", 1.0), (HTML, 0.8)]
    assert list(accept.values()) == ["application/json;charset=utf-8", HTML]
    assert str(accept) == accept.to_header() == "application/json;charset=utf-8,text/html;q=0.8"
    assert repr(MIMEAccept([(HTML, 0.5)])) == "MIMEAccept([('text/html', 0.5)])"
    assert MIMEAccept().best is None
    assert "text/csv; charset=utf-8" in MIMEAccept.parse(CSV)


def test_a_misspelt_type_of_the_hook_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="of the form application/json, got 'json'"):
        assert "json" in MIMEAccept.parse("*/*")


@pytest.mark.parametrize("header", [None, "", " ", "*/*"])
def test_a_client_that_accepts_anything_gets_the_default(header: str | None) -> None:
    assert accepted(header, CSV).best_match([JSON, CSV]) == CSV
    assert accepted(header, "*/*").accept_json
    assert accepted("image/png", CSV).best_match([JSON, CSV]) is None


def test_a_long_header_takes_no_long_time() -> None:
    assert MIMEAccept.parse('a/b;c="' + "\\" * 60_000).best_match([JSON]) is None
    assert MIMEAccept.parse('"\\' * 100_000).best_match([JSON]) is None
    assert len(MIMEAccept.parse(",".join(["a/b"] * 2_000))) == 2_000
