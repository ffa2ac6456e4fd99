"""Starts the chat, asks it a question through OpenAI's own client, and prints the answer while it comes.

Run ``python -m example_app.chat``. The service runs until Ctrl-C; with ``--once`` it stops after the answer.
"""

import sys
import time

import openai

from example_app import demonstration
from example_app.service import Service

APPLICATION = "example_app.chat.main:app"
QUESTION = "Why is the sky blue? Answer in two sentences."
MAX_TOKENS = 120


def ask(service: Service) -> bool:
    """Ask the question, and return whether there was an answer."""
    print(f"\n{QUESTION}\n", flush=True)
    try:
        print_answer(service)
    except openai.OpenAIError as error:
        print(f"\n{error}", file=sys.stderr, flush=True)
        return False
    return True


def print_answer(service: Service) -> None:
    """Print the answer while it comes, and its speed.

    Raises:
        openai.OpenAIError: There is none.
    """
    begun, first, tokens = time.monotonic(), 0.0, 0
    with openai.OpenAI(base_url=f"{service.url}/v1", api_key="none", max_retries=0) as client:
        chunks = client.chat.completions.create(
            model=client.models.list().data[0].id,
            messages=[{"role": "user", "content": QUESTION}],
            max_tokens=MAX_TOKENS,
            seed=1,
            stream=True,
            stream_options={"include_usage": True},
        )
        for chunk in chunks:
            text = chunk.choices[0].delta.content if chunk.choices else None
            if text:
                first = first or time.monotonic() - begun
                print(text, end="", flush=True)
            if chunk.usage is not None:
                tokens = chunk.usage.completion_tokens
    total = time.monotonic() - begun
    print(f"\n\n{tokens} tokens in {total:.1f} s, the first after {first:.2f} s.", flush=True)


def main() -> None:
    """Run the demonstration."""
    demonstration.main(APPLICATION, __doc__.splitlines()[0], ask)


if __name__ == "__main__":
    main()
