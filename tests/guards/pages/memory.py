import asyncio

import numpy as np
from arrays import Photo, flow
from in_place import Canvas, drawing


async def main() -> None:
    async with flow, drawing:
        photo = await flow.process(Photo(np.full((400, 400), 5, np.uint8)))
        assert (photo.mean, photo.upper) == (15.0, None)
        canvas = Canvas(200)
        await drawing.process(canvas)
        assert canvas.pixels[0].min() == 255
        assert canvas.pixels[1].max() == 0


if __name__ == "__main__":
    asyncio.run(main())
