"""LitServe: a FastAPI application of its own."""

# Without `from __future__ import annotations`: LitServe looks at the annotations of decode_request as they are.

import sys
from typing import Annotated, Any

from fastapi import Body
from litserve import LitAPI, LitServer

from . import work

RawBody = Annotated[bytes, Body(media_type="application/octet-stream")]


class Copy(LitAPI):  # type: ignore[misc]  # not installed where types are checked
    def setup(self, device: str) -> None:
        pass

    def predict(self, item: dict[str, int]) -> dict[str, int]:
        return {"value": item["value"]}


class Touch(LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: RawBody) -> bytes:
        return request

    def predict(self, body: bytes) -> dict[str, int]:
        return {"value": work.touch(body)}


class Model(LitAPI):  # type: ignore[misc]
    def setup(self, device: str) -> None:
        pass

    def predict(self, items: list[dict[str, int]]) -> list[dict[str, int]]:
        work.run_model(len(items))
        return [{"value": item["value"]} for item in items]


APIS: dict[str, tuple[Any, dict[str, Any]]] = {
    "noop": (Copy, {}),
    "upload": (Touch, {}),
    "batching": (Model, {"max_batch_size": work.BATCH_SIZE, "batch_timeout": work.BATCH_WAIT}),
}


def main(name: str, port: int) -> None:
    api_type, options = APIS[name]
    server = LitServer(api_type(api_path="/work", **options), accelerator="cpu", workers_per_device=1)
    server.run(
        host="127.0.0.1",
        port=port,
        num_api_servers=1,
        generate_client_file=False,
        log_level="warning",
        access_log=False,
        loop="uvloop",
        http="httptools",
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
