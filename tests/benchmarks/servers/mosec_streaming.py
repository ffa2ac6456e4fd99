"""Mosec with server-sent events."""

from __future__ import annotations

import sys

from mosec import Server, SSEWorker

from .token_model import BATCH_WAIT, MAX_BATCH, TOKEN, Prompt, generate, run_step


class Alone(SSEWorker):  # type: ignore[misc]  # not installed where types are checked
    def forward(self, data: dict[str, float]) -> str:
        prompt = Prompt.model_validate(data)
        for token in generate(prompt.count, prompt.step, prompt.report_to):
            self.send_stream_event(token)
        return ""


class Together(SSEWorker):  # type: ignore[misc]
    def forward(self, data: list[dict[str, float]]) -> list[str]:
        prompts = [Prompt.model_validate(item) for item in data]
        # The requests of a batch end together here, so no step is spent on one that has ended.
        for _ in range(max(prompt.count for prompt in prompts)):
            run_step(max(prompt.step for prompt in prompts))
            for index in range(len(prompts)):
                self.send_stream_event(TOKEN, index=index)
        return [""] * len(prompts)


def main(name: str, port: int) -> None:
    sys.argv[1:] = [f"--port={port}", "--address=127.0.0.1", "--log-level=error", "--timeout=30000"]
    server = Server()
    if name == "batch":
        batching = {"max_batch_size": MAX_BATCH, "max_wait_time": round(BATCH_WAIT * 1000)}
        server.append_worker(Together, route="/work", **batching)
    else:
        server.append_worker(Alone, route="/work")
    server.run()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
