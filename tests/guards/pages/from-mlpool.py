import asyncio

from main import app, pool
from models import score_text_classifier

from fastapi_aqueduct import QueueFull, UnknownModel
from fastapi_aqueduct.testing import client


async def main() -> None:
    async with client(app) as http:
        texts = ["short", "a text that is rather long"]
        assert [(await http.post("/classify", params={"text": text})).json() for text in texts] == ["short", "long"]
        answers = await asyncio.gather(*(http.post("/digit", params={"number": number % 3}) for number in range(9)))
        assert [answer.json() for answer in answers] == ["zero", "one", "two"] * 3
        task = asyncio.create_task(pool.call("text_classifier", score_text_classifier, "x"))
        assert not task.done()
        assert await task == "short"
        call = await asyncio.to_thread(pool.call_blocking, "text_classifier", score_text_classifier, "x")
        assert call == "short"
        try:
            assert await pool.with_options(wait_if_full=False).call("text_classifier", score_text_classifier, "x")
        except QueueFull:
            raise AssertionError("nothing waits") from None
        try:
            await pool.call("iris", score_text_classifier, "x")
        except ValueError as exc:
            assert isinstance(exc, UnknownModel)


if __name__ == "__main__":
    asyncio.run(main())
