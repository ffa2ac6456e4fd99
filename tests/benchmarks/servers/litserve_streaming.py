"""LitServe with ``stream=True``."""

# Without `from __future__ import annotations`: LitServe looks at the annotations of decode_request as they are.

import sys
from collections.abc import Iterator
from typing import Any

from litserve import LitAPI, LitServer

from .token_model import LONG_BATCH_WAIT, MAX_BATCH, TOKEN, Prompt, generate, run_step


class Alone(LitAPI):  # type: ignore[misc]  # not installed where types are checked
    def setup(self, device: str) -> None:
        pass

    def decode_request(self, request: Prompt) -> Prompt:
        return request

    def predict(self, prompt: Any) -> Iterator[Any]:
        yield from generate(prompt.count, prompt.step, prompt.report_to)

    # The server takes what is returned for the model of its responses.
    def encode_response(self, tokens: Any) -> Any:
        for token in tokens:
            yield f"data: {token}\n\n"


class Together(Alone):
    def predict(self, prompts: Any) -> Iterator[Any]:
        # The requests of a batch end together here, so no step is spent on one that has ended.
        for _ in range(max(prompt.count for prompt in prompts)):
            run_step(max(prompt.step for prompt in prompts))
            yield [TOKEN] * len(prompts)

    def encode_response(self, tokens: Any) -> Any:
        for batch in tokens:
            yield [f"data: {token}\n\n" for token in batch]


def main(name: str, port: int) -> None:
    if name == "batch":
        api: LitAPI = Together(api_path="/work", stream=True, max_batch_size=MAX_BATCH, batch_timeout=LONG_BATCH_WAIT)
    else:
        api = Alone(api_path="/work", stream=True)
    server = LitServer(api, accelerator="cpu", workers_per_device=1)
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
