"""Starts the service, sends it the sample pictures over HTTP and prints the text and the time of each step.

Run ``python -m example_app.demo``. The service runs until Ctrl-C; with ``--once`` it stops after the samples, and the
exit status is 0 only if every expected word was read.
"""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from example_app import demonstration
from example_app.request_ids import HEADER
from example_app.service import Service, show

APPLICATION = "example_app.main:app"
SAMPLES = Path(__file__).resolve().parent / "samples"
ANSWER_TIMEOUT = 120.0


class Sample(NamedTuple):
    """A sample picture and the words on it."""

    path: Path
    title: str
    words: list[str]


def load_samples() -> list[Sample]:
    """Return the sample pictures with the words that are expected."""
    index = json.loads((SAMPLES / "samples.json").read_text(encoding="utf-8"))
    return [Sample(SAMPLES / name, entry["title"], entry["words"]) for name, entry in index.items()]


def missing_words(sample: Sample, result: dict[str, Any]) -> list[str]:
    """Return the words of a sample that were not read, each as often as it is missing."""
    read = " ".join(line["text"] for line in result["lines"]).split()
    return sorted((Counter(sample.words) - Counter(read)).elements())


def read_samples(service: Service) -> bool:
    """Send every sample, print the text, and return whether all expected words were read."""
    samples = load_samples()
    begun = time.monotonic()
    missing = 0
    with httpx.Client(base_url=service.url, timeout=ANSWER_TIMEOUT) as client:
        for number, sample in enumerate(samples, 1):
            missing += read_sample(client, sample, f"[{number}/{len(samples)}]")
    words = sum(len(sample.words) for sample in samples)
    spent = time.monotonic() - begun
    print(f"\n{len(samples)} pictures in {spent:.1f} s: {words - missing} of {words} words as expected.")
    show_log(service, samples)
    return missing == 0


def read_sample(client: httpx.Client, sample: Sample, progress: str) -> int:
    """Send one sample, print the answer, and return how many words are missing."""
    name, size = sample.path.name, sample.path.stat().st_size
    print()
    show(f"{progress} {name}: sending {size / 1000:.0f} kB ...")
    begun = time.monotonic()
    response = client.post("/ocr", content=sample.path.read_bytes(), headers={HEADER: name})
    total = time.monotonic() - begun
    if response.status_code != 200:
        show(f"{progress} {name}: status {response.status_code}: {response.text}", True)
        return len(sample.words)
    result = response.json()
    show(f"{progress} {name}: {result['width']} x {result['height']} pixels, {size / 1000:.0f} kB", True)
    for line in result["lines"]:
        print(f"    {line['score']:4.0%}  {line['text']}")
    steps = [f"{step['step']} {duration(step['handle_time'])}" for step in result["steps"]]
    print(f"    {', '.join(steps)}; {duration(total)} in all")
    missing = missing_words(sample, result)
    if missing:
        print(f"    NOT READ: {' '.join(missing)}")
    return len(missing)


def show_log(service: Service, samples: list[Sample]) -> None:
    """Print the log records of the workers; the ids of the requests are the names of the samples."""
    print("\nFrom the log of the service, with the id of each request:")
    for line in service.read_log().splitlines():
        if any(f"[{sample.path.name} " in line for sample in samples):
            print(f"    {line}")


def duration(seconds: float) -> str:
    """Format seconds for people."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def main() -> None:
    """Run the demonstration."""
    demonstration.main(APPLICATION, __doc__.splitlines()[0], read_samples)


if __name__ == "__main__":
    main()
