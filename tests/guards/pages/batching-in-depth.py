import asyncio

import costly
import keyed


async def main() -> None:
    async with keyed.flow as flow:
        texts = [keyed.Text("x" * length) for length in (1, 100, 2, 101, 3, 102)]
        await asyncio.gather(*map(flow.process, texts))
        assert max(text.padded for text in texts) < 64
    async with costly.flow as flow:
        prompts = [costly.Prompt(list(range(length))) for length in (600, 500, 300, 2000, 100)]
        await asyncio.gather(*map(flow.process, prompts))
        assert prompts[3].together == 2000
        assert all(prompt.together <= 1000 for prompt in prompts if prompt.length <= 1000)


if __name__ == "__main__":
    asyncio.run(main())
