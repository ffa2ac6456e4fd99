"""The example applications of the package ``aqueduct``, as they stand in its repository.

Copyright (c) 2021 Avito, under the MIT License. Only its models are others, which need neither PyTorch nor a download.
"""

from __future__ import annotations

from pathlib import Path

AIOHTTP_APP = """\
from aiohttp import web

from aqueduct.integrations.aiohttp import (
    FLOW_NAME,
    AppIntegrator,
)
from .flow import (
    Flow,
    Task,
    get_flow,
)


class ClassifyView(web.View):
    @property
    def flow(self) -> Flow:
        return self.request.app[FLOW_NAME]

    async def post(self):
        im = await self.request.read()
        task = Task(im)
        await self.flow.process(task)
        return web.json_response(data={'result': task.h_pred})


def prepare_app() -> web.Application:
    app = web.Application(client_max_size=0)
    app.router.add_post('/classify', ClassifyView)

    AppIntegrator(app).add_flow(get_flow())

    return app


if __name__ == '__main__':
    web.run_app(prepare_app())
"""

FLASK_APP = """\
import asyncio

from flask import Flask, request

from .flow import Task, get_flow

loop = asyncio.get_event_loop()

app = Flask(__name__)
flow = get_flow()
flow.start()


@app.route("/", methods=['POST'])
def hello_world():
    image = request.get_data()
    task = Task(image)
    loop.run_until_complete(flow.process(task))
    return {'result': task.h_pred}
"""

FLOW = """\
from typing import (
    List,
    Optional,
    Tuple,
)

import torch

from aqueduct import (
    BaseTask,
    BaseTaskHandler,
    Flow,
    FlowStep,
)
from .pipeline import (
    Classifier,
    default_producer,
)


class Task(BaseTask):
    def __init__(
            self,
            image: bytes,
    ):
        super().__init__()
        self.image: Optional[bytes, torch.Tensor] = image
        self.pred: Optional[torch.Tensor] = None
        self.h_pred: Optional[List[Tuple[str, float]]] = None


class PreProcessorHandler(BaseTaskHandler):
    def __init__(self):
        self._model = default_producer.get_pre_proc()

    def handle(self, *tasks: Task):
        for task in tasks:
            task.image = self._model.process(task.image)


class ClassifierHandler(BaseTaskHandler):
    def __init__(self, max_batch_size: int = 1):
        self._model: Optional[Classifier] = None
        self.max_batch_size = max_batch_size

    def on_start(self):
        self._model = default_producer.get_classifier()

    def handle(self, *tasks: Task):
        preds = self._model.process_list(data=[task.image for task in tasks])
        for pred, task in zip(preds, tasks):
            task.pred = pred
            task.image = None


class PostProcessorHandler(BaseTaskHandler):
    def __init__(self):
        self._model = default_producer.get_post_proc()

    def handle(self, *tasks: Task):
        for task in tasks:
            task.h_pred = self._model.process(task.pred)


def get_flow() -> Flow:
    return Flow(
        FlowStep(PreProcessorHandler()),
        FlowStep(ClassifierHandler()),
        FlowStep(PostProcessorHandler()),
        metrics_enabled=False,
    )
"""

PIPELINE = """\
import numpy as np

NAMES = ["dark", "bright"]


class PreProcessor:
    def process(self, im_bytes):
        return np.frombuffer(im_bytes, np.uint8).astype(np.float32)


class Classifier:
    def process_list(self, data):
        return [np.array([1 - pixels.mean() / 255, pixels.mean() / 255]) for pixels in data]


class PostProcessor:
    def process(self, pred):
        return [(NAMES[index], float(pred[index])) for index in np.argsort(-pred)]


class ModelsProducer:
    def get_classifier(self):
        return Classifier()

    def get_pre_proc(self):
        return PreProcessor()

    def get_post_proc(self):
        return PostProcessor()


default_producer = ModelsProducer()
"""

TORCH = """\
class Tensor:
    pass
"""


def write_demoapp(directory: Path, app: str) -> None:
    """Write an example, with only the name of the package in its imports changed.

    Args:
        directory: Where the package ``demoapp`` comes.
        app: The source of its module ``app``.
    """
    package = directory / "demoapp"
    package.mkdir()
    (directory / "torch.py").write_text(TORCH)
    for name, source in {"__init__": "", "app": app, "flow": FLOW, "pipeline": PIPELINE}.items():
        (package / f"{name}.py").write_text(source.replace("from aqueduct", "from fastapi_aqueduct"))
