import asyncio
import importlib.util
import sys
from pathlib import Path

import numpy as np


def write_model(path: Path) -> None:
    """Write a model that doubles its input, as the bytes of ONNX's protocol buffers."""

    def field(number: int, data: bytes) -> bytes:
        return bytes([number << 3 | 2, len(data)]) + data

    def tensor(name: bytes) -> bytes:
        shape = field(1, field(2, b"n")) + field(1, b"\x08\x04")
        return field(1, name) + field(2, field(1, b"\x08\x01" + field(2, shape)))

    node = field(1, b"input") + field(1, b"input") + field(2, b"output") + field(4, b"Add")
    graph = field(1, node) + field(2, b"graph") + field(11, tensor(b"input")) + field(12, tensor(b"output"))
    path.write_bytes(b"\x08\x08" + field(7, graph) + field(8, b"\x10\x0d"))


async def main(module: str) -> None:
    predict = __import__(module).predict
    async with predict.flow:
        vector = np.arange(4, dtype=np.float32)
        results = await asyncio.gather(*[predict(vector) for _ in range(5)])
        if module == "onnx_model":
            assert all(np.array_equal(result, 2 * vector) for result in results)
        else:
            assert all(result.shape == (2,) for result in results)


if __name__ == "__main__":
    write_model(Path("model.onnx"))
    asyncio.run(main("onnx_model"))
    if importlib.util.find_spec("torch"):
        asyncio.run(main("torch_model"))
    else:
        sys.stdout.write("without torch\n")
