"""The example application over HTTP: a real server with its worker processes."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from example_app.demo import Sample, load_samples, missing_words
from example_app.service import Service

from ..support import DEADLINE, wait_until
from .conftest import count_tasks

SAMPLES = {sample.path.name: sample for sample in load_samples()}
TINY = SAMPLES["tiny.png"]


def text(result: dict[str, Any]) -> str:
    return " ".join(line["text"] for line in result["lines"])


def events(response: httpx.Response) -> Iterator[dict[str, Any]]:
    """Read the events of a stream as they arrive."""
    assert response.status_code == 200, response.read()
    assert response.headers["content-type"].startswith("text/event-stream")
    yield from (json.loads(line[len("data: ") :]) for line in response.iter_lines() if line)


class TestReading:
    @pytest.mark.long  # the demonstration's own test reads them all, too
    def test_every_sample_as_the_body(self, client: httpx.Client, sample: Sample) -> None:
        answer = client.post("/ocr", content=sample.path.read_bytes())
        assert answer.status_code == 200, answer.text
        assert missing_words(sample, answer.json()) == []

    def test_a_part_of_a_form(self, client: httpx.Client) -> None:
        part = ("tiny.png", TINY.path.read_bytes(), "image/png")
        answer = client.post("/ocr", files={"image": part})
        assert answer.status_code == 200, answer.text
        assert missing_words(TINY, answer.json()) == []

    def test_the_answer_has_size_boxes_scores_and_times(self, client: httpx.Client) -> None:
        result = client.post("/ocr", content=TINY.path.read_bytes()).json()
        assert (result["width"], result["height"]) == (160, 40)
        (line,) = result["lines"]
        assert 0.5 <= line["score"] <= 1
        assert len(line["box"]) == 4 and all(0 <= x <= 160 and 0 <= y <= 40 for x, y in line["box"])
        names = [step["step"].rpartition("_")[2] for step in result["steps"]]
        assert names == ["Decode", "Detect", "Recognise"]
        assert all(step["handle_time"] > 0 and step["queue_time"] >= 0 for step in result["steps"])

    def test_min_score_is_a_parameter_of_the_query(self, client: httpx.Client) -> None:
        strict = client.post("/ocr", params={"min_score": 1}, content=TINY.path.read_bytes())
        assert strict.json()["lines"] == []

    def test_a_picture_without_text_has_no_lines(self, client: httpx.Client, blank_picture: bytes) -> None:
        answer = client.post("/ocr", content=blank_picture)
        assert answer.status_code == 200 and answer.json()["lines"] == []

    def test_many_at_once_each_get_their_own_text(self, service: Service, client: httpx.Client) -> None:
        counts = {"tiny.png": 1, "sign.jpg": 3}
        ids = [f"{name}-{number}" for number in (1, 2) for name in counts]

        def read(number: str) -> str:
            name, _ = number.split("-")
            picture = SAMPLES[name].path.read_bytes()
            return text(client.post("/ocr", content=picture, headers={"X-Request-ID": number}).json())

        with ThreadPoolExecutor(len(ids)) as pool:
            for number, found in zip(ids, pool.map(read, ids), strict=True):
                assert found.split() == SAMPLES[number.split("-")[0]].words

        def logged() -> list[tuple[str, str]]:
            return re.findall(r" read (\d) of \d lines .+ \[([a-z]+\....-\d) ", service.read_log())

        # They are read in batches, and each has a line of its own.
        assert wait_until(lambda: len(logged()) >= len(ids), DEADLINE)
        assert sorted(logged()) == sorted((str(counts[number.split("-")[0]]), number) for number in ids)


class TestRequestIds:
    def test_a_worker_logs_the_id_of_the_request_once(self, service: Service, client: httpx.Client) -> None:
        answer = client.post("/ocr", content=TINY.path.read_bytes(), headers={"X-Request-ID": "the-id.1"})
        assert answer.headers["x-request-id"] == "the-id.1"
        line = r"^INFO:     read 1 of 1 lines in \d\.\d\d s \[the-id\.1 flow:step3_Recognise (\d+)\]$"
        assert wait_until(lambda: re.findall(line, service.read_log(), re.MULTILINE), DEADLINE)
        (pid,) = re.findall(line, service.read_log(), re.MULTILINE)
        assert int(pid) != service.process.pid
        assert service.read_log().count("the-id.1") == 1

    @pytest.mark.parametrize("wanted", [None, "", "two words", "x" * 65, "a]"])
    def test_an_id_that_has_no_place_in_a_line_of_the_log_is_replaced(
        self, client: httpx.Client, wanted: str | None
    ) -> None:
        answers = [client.get("/live", headers={} if wanted is None else {"X-Request-ID": wanted}) for _ in range(2)]
        first, second = (answer.headers["x-request-id"] for answer in answers)
        assert re.fullmatch("[0-9a-f]{32}", first) and first != second


class TestStream:
    def test_lines_come_in_their_order_and_then_the_times(self, client: httpx.Client, short_page: bytes) -> None:
        with client.stream("POST", "/ocr/stream", content=short_page) as response:
            *items, summary = events(response)
        lines = [item for item in items if item["event"] == "line"]
        progress = [item for item in items if item["event"] == "progress"]
        result = client.post("/ocr", content=short_page).json()
        assert [(line["event"], line["number"], line["of"]) for line in lines] == [("line", n, 3) for n in (1, 2, 3)]
        assert [{name: line[name] for name in ("text", "score", "box")} for line in lines] == result["lines"]
        assert items[0] == lines[0] and progress[-1] == {"event": "progress", "done": 3, "of": 3}
        assert summary.keys() == {"event", "width", "height", "steps"} and summary["event"] == "summary"
        assert (summary["width"], summary["height"]) == (640, 100)
        assert [step["step"] for step in summary["steps"]] == [step["step"] for step in result["steps"]]

    def test_lines_that_are_left_out_have_a_number(self, client: httpx.Client, short_page: bytes) -> None:
        with client.stream("POST", "/ocr/stream", content=short_page) as response:
            lines = [event for event in events(response) if event["event"] == "line"]
        scores = sorted(line["score"] for line in lines)
        with client.stream("POST", "/ocr/stream", params={"min_score": scores[1]}, content=short_page) as response:
            found = list(events(response))
        assert found[-2] == {"event": "progress", "done": 3, "of": 3}
        sure = [event for event in found if event["event"] == "line"]
        assert sure == [line for line in lines if line["score"] > scores[0]] and len(sure) == 2

    def test_a_part_of_a_form(self, client: httpx.Client) -> None:
        part = ("tiny.png", TINY.path.read_bytes(), "image/png")
        with client.stream("POST", "/ocr/stream", files={"image": part}) as response:
            line, *_ = events(response)
        assert line["text"].split() == TINY.words

    def test_a_picture_without_text_has_only_the_times(self, client: httpx.Client, blank_picture: bytes) -> None:
        with client.stream("POST", "/ocr/stream", content=blank_picture) as response:
            (summary,) = events(response)
        assert (summary["width"], summary["height"]) == (200, 120) and len(summary["steps"]) == 3

    def test_a_client_that_leaves_cancels_the_reading(self, client: httpx.Client, long_page: bytes) -> None:
        cancelled = count_tasks(client, "cancelled")
        with client.stream("POST", "/ocr/stream", content=long_page) as response:
            assert next(events(response))["of"] == 90
        assert wait_until(lambda: count_tasks(client, "cancelled") == cancelled + 1, 10)

    @pytest.mark.parametrize(("data", "status"), [(b"just some text", 415), (TINY.path.read_bytes()[:2000], 422)])
    def test_a_refusal_has_its_status(self, client: httpx.Client, data: bytes, status: int) -> None:
        answer = client.post("/ocr/stream", content=data)
        assert answer.status_code == status and answer.json().keys() == {"detail"}

    def test_a_score_that_is_none(self, client: httpx.Client) -> None:
        answer = client.post("/ocr/stream", params={"min_score": "high"}, content=TINY.path.read_bytes())
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", "min_score"]


class TestRefusals:
    def test_what_is_no_picture(self, client: httpx.Client) -> None:
        answer = client.post("/ocr", content=b"just some text")
        assert answer.status_code == 415 and "JPEG" in answer.json()["detail"]

    def test_no_picture_in_a_form(self, client: httpx.Client) -> None:
        answer = client.post("/ocr", files={"image": ("notes.txt", b"just some text", "text/plain")})
        assert answer.status_code == 415

    def test_a_damaged_picture(self, client: httpx.Client) -> None:
        answer = client.post("/ocr", content=SAMPLES["receipt.jpg"].path.read_bytes()[:100_000])
        assert answer.status_code == 422 and "damaged" in answer.json()["detail"]

    def test_an_empty_body(self, client: httpx.Client) -> None:
        assert client.post("/ocr", content=b"").status_code in (415, 422)

    def test_a_form_without_the_picture(self, client: httpx.Client) -> None:
        assert client.post("/ocr", files={"another": ("tiny.png", TINY.path.read_bytes())}).status_code == 422

    @pytest.mark.parametrize("score", ["-0.1", "1.1", "high"])
    def test_a_score_that_is_none(self, client: httpx.Client, score: str) -> None:
        answer = client.post("/ocr", params={"min_score": score}, content=TINY.path.read_bytes())
        assert answer.status_code == 422
        assert answer.json()["detail"][0]["loc"] == ["query", "min_score"]

    def test_a_refusal_leaves_the_service_working(self, client: httpx.Client) -> None:
        for data in (b"no picture", TINY.path.read_bytes()[:2000]) * 3:
            assert client.post("/ocr", content=data).status_code in (415, 422)
        assert missing_words(TINY, client.post("/ocr", content=TINY.path.read_bytes()).json()) == []


class TestAround:
    def test_probes_say_that_it_is_ready(self, client: httpx.Client) -> None:
        assert client.get("/ready").status_code == 200
        assert client.get("/live").status_code == 200
        assert client.get("/startup").status_code == 200

    def test_metrics_show_requests_and_the_pipeline(self, client: httpx.Client) -> None:
        client.post("/ocr", content=TINY.path.read_bytes())
        client.get("/ready")
        metrics = client.get("/metrics").text
        assert re.search(r'^http_requests_total\{.*handler="/ocr".*\} [1-9]', metrics, re.MULTILINE)
        assert 'handler="/ready"' not in metrics
        ready = re.findall(r'^aqueduct_workers\{.*state="ready".*\} ([\d.]+)', metrics, re.MULTILINE)
        assert [float(count) for count in ready] == [2, 2, 1]

    def test_the_documentation_shows_how_to_send_a_picture(self, client: httpx.Client) -> None:
        assert client.get("/docs").status_code == 200
        operation = client.get("/openapi.json").json()["paths"]["/ocr"]["post"]
        assert "multipart/form-data" in operation["requestBody"]["content"]
        assert {"200", "413", "415", "422"} <= set(operation["responses"])
        assert [parameter["name"] for parameter in operation["parameters"]] == ["min_score"]

    def test_the_documentation_describes_the_events(self, client: httpx.Client) -> None:
        schema = client.get("/openapi.json").json()
        operation = schema["paths"]["/ocr/stream"]["post"]
        assert {"200", "413", "415", "422"} <= set(operation["responses"])
        event = operation["responses"]["200"]["content"]["text/event-stream"]["itemSchema"]["properties"]["data"]
        names = {option["$ref"].rpartition("/")[2] for option in event["contentSchema"]["anyOf"]}
        assert names == {"ReadLine", "ReadingProgress", "Summary"}
        line = schema["components"]["schemas"]["ReadLine"]
        assert set(line["required"]) == {"text", "score", "box", "number", "of"}


def test_only_the_operator_sees_the_status_page(client: httpx.Client) -> None:
    for auth, status in ((None, 401), (("operator", "guessed"), 401), (("operator", "secret"), 200)):
        assert client.get("/ops/", auth=auth).status_code == status
    steps = client.get("/ops/snapshot", auth=("operator", "secret")).json()["flows"][0]["steps"]
    assert {step["state"] for step in steps} == {"ready"}
