"""Mosec: a server of its own, its web layer in Rust."""

from __future__ import annotations

import sys
from typing import Any

from mosec import Server, Worker

from . import work


class Raw(Worker):  # type: ignore[misc]  # not installed where types are checked
    def deserialize(self, data: bytes) -> bytes:
        return data


class Copy(Worker):  # type: ignore[misc]
    def forward(self, data: dict[str, int]) -> dict[str, int]:
        return {"value": data["value"]}


class Touch(Raw):
    def forward(self, data: bytes) -> dict[str, int]:
        return {"value": work.touch(data)}


class Model(Worker):  # type: ignore[misc]
    def forward(self, data: list[dict[str, int]]) -> list[dict[str, int]]:
        work.run_model(len(data))
        return [{"value": item["value"]} for item in data]


class Make(Worker):  # type: ignore[misc]
    def forward(self, data: dict[str, int]) -> work.Array:
        return work.make_array(data["value"])


class Pass(Worker):  # type: ignore[misc]
    def forward(self, data: work.Array) -> work.Array:
        return data


class Finish(Worker):  # type: ignore[misc]
    def forward(self, data: work.Array) -> dict[str, int]:
        return {"value": work.last_of(data)}


class MakeAndFinish(Worker):  # type: ignore[misc]
    def forward(self, data: dict[str, int]) -> dict[str, int]:
        return {"value": work.last_of(work.make_array(data["value"]))}


STAGES: dict[str, list[Any]] = {
    "noop": [Copy],
    "upload": [Touch],
    "batching": [Model],
    "steps-1": [MakeAndFinish],
    "steps-2": [Make, Finish],
    "steps-3": [Make, Pass, Finish],
}


def main(name: str, port: int) -> None:
    sys.argv[1:] = [
        f"--port={port}",
        "--address=127.0.0.1",
        "--log-level=error",
        "--timeout=30000",
        f"--max-request-size={64 << 20}",
    ]
    server = Server()
    batching = {"max_batch_size": work.BATCH_SIZE, "max_wait_time": round(work.BATCH_WAIT * 1000)}
    for stage in STAGES[name]:
        server.append_worker(stage, route="/work", **(batching if name == "batching" else {}))
    server.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
