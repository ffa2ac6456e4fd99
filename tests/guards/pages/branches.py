import asyncio

from main import app
from photographs import Photograph, flow
from starlette.testclient import TestClient

from fastapi_aqueduct import FieldConflict

CAPTION = "a face in 100000 bytes, a plate: B-QX 12"


async def twice() -> None:
    async with flow:
        task = await flow.process(Photograph(memoryview(b"x" * 100_000)))
        assert task.caption == CAPTION
        names = [step.step.partition("_")[2] for step in task.metrics.steps]
        assert (names[0], sorted(names[1:4]), names[4]) == ("Decode", ["Faces", "Plates", "Read"], "Caption")


if __name__ == "__main__":
    with TestClient(app) as client:
        assert client.post("/photographs", content=b"x" * 100_000).json() == CAPTION
    asyncio.run(twice())
    assert flow.shape[1] == (("step2_Faces",), ("step3_Plates", "step4_Read"))
    assert FieldConflict("", field="faces").field == "faces"
