from typing import Annotated

from fastapi import FastAPI
from reader import read

from fastapi_aqueduct import Aqueduct, UploadTo

app = FastAPI(lifespan=Aqueduct(read).lifespan)


@app.post("/read")
async def read_picture(picture: Annotated[memoryview, UploadTo(read)]) -> list[str]:
    return await read(picture)
