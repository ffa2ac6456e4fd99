"""The example's handlers, called directly, on the sample pictures and on pictures that are none."""

import copy
import io
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.ImageOps import exif_transpose

from example_app.demo import Sample, load_samples
from example_app.finder import LINE_HEIGHT
from example_app.layout import Corners, reading_order
from example_app.pictures import (
    MAX_PIXELS,
    NotAPicture,
    PictureError,
    PictureTooLarge,
    Pixels,
    UnreadablePicture,
    read_picture,
)
from example_app.pipeline import Decode, Detect, Line, OcrTask, ReadLine, Recognise
from example_app.reader import LineReader
from example_app.service import ROOT
from fastapi_aqueduct import Flow, FlowStep

from ..handlers import note, notes
from ..support import running

SAMPLES = {sample.path.name: sample for sample in load_samples()}


@pytest.fixture(scope="module")
def detect() -> Detect:
    handler = Detect(nice=0)
    handler.on_start()
    return handler


@pytest.fixture(scope="module")
def recognise() -> Recognise:
    handler = Recognise(nice=0)
    handler.on_start()
    return handler


@pytest.fixture(scope="module")
def found(detect: Detect) -> Callable[[str], OcrTask]:
    """Gives a sample after `Detect`, which works on it once."""
    tasks: dict[str, OcrTask] = {}

    def find(name: str) -> OcrTask:
        if name not in tasks:
            tasks[name] = detected(detect, SAMPLES[name].path.read_bytes())
        return copy.deepcopy(tasks[name])

    return find


@pytest.fixture(scope="module")
def read(found: Callable[[str], OcrTask], recognise: Recognise) -> Callable[[str], OcrTask]:
    """Gives a sample after `Recognise`, which works on it once."""
    tasks: dict[str, OcrTask] = {}

    def find(name: str) -> OcrTask:
        if name not in tasks:
            tasks[name] = found(name)
            recognise.handle(tasks[name])
        return tasks[name]

    return find


def detected(detect: Detect, data: bytes, min_score: float = 0.5) -> OcrTask:
    task = OcrTask(memoryview(data), min_score)
    Decode().handle(task)
    detect.handle(task)
    return task


def words(task: OcrTask) -> list[str]:
    return " ".join(line.text for line in task.lines).split()


def turned(sample: Sample, quarters: int) -> bytes:
    file = io.BytesIO()
    with Image.open(sample.path) as image:
        image.rotate(90 * quarters, expand=True).save(file, "JPEG", quality=90)
    return file.getvalue()


class CountingReader(LineReader):
    """The real reader, which notes how many lines it is given in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def read(self, strips: list[Pixels]) -> list[tuple[str, float]]:
        self.sizes.append(len(strips))
        return super().read(strips)


class TestSamples:
    def test_all_words_are_read_and_lines_in_their_order(self, sample: Sample, read: Callable[[str], OcrTask]) -> None:
        task = read(sample.path.name)
        assert sorted(words(task)) == sorted(sample.words)
        if sample.path.name in ("receipt.jpg", "letter.jpg", "large.jpg", "rotated.jpg"):
            assert words(task) == sample.words

    @pytest.mark.parametrize(
        "quarters", [pytest.param(1, marks=pytest.mark.long), 2, pytest.param(3, marks=pytest.mark.long)]
    )
    def test_a_turned_picture_reads_the_same(self, quarters: int, detect: Detect, recognise: Recognise) -> None:
        task = detected(detect, turned(SAMPLES["receipt.jpg"], quarters))
        recognise.handle(task)
        assert words(task) == SAMPLES["receipt.jpg"].words

    def test_boxes_begin_where_the_text_begins(self, read: Callable[[str], OcrTask]) -> None:
        """In the sample that lies on its side the text runs up the picture."""
        task = read("rotated.jpg")
        for line in task.lines:
            (x, y), (end_x, end_y), *_ = line.box
            assert y - end_y > 3 * abs(x - end_x)

    def test_there_are_the_promised_sizes(self) -> None:
        sizes = {}
        for name, sample in SAMPLES.items():
            with Image.open(sample.path) as image:
                sizes[name] = image.size
        assert len(sizes) >= 6
        assert sizes["large.jpg"] == (4000, 3000)
        assert max(sizes["tiny.png"]) <= 160

    def test_one_is_stored_on_its_side_as_telephones_do(self) -> None:
        with Image.open(SAMPLES["phone.jpg"].path) as image:
            assert image.getexif()[0x0112] == 6


class TestBatch:
    def test_pictures_are_read_side_by_side(self, found: Callable[[str], OcrTask]) -> None:
        names = ["sign.jpg", "tiny.png", "phone.jpg"]
        tasks = [found(name) for name in names]
        recognise = Recognise(nice=0)
        recognise.reader = reader = CountingReader()
        recognise.handle(*tasks)
        assert reader.sizes == [3, 2, 2, 1, 1]  # lines in each round: the pictures have 3, 1 and 5
        for name, task in zip(names, tasks, strict=True):
            assert words(task) == SAMPLES[name].words

    def test_a_picture_without_text_does_not_disturb_its_neighbours(
        self, detect: Detect, recognise: Recognise, blank_picture: bytes
    ) -> None:
        tasks = [detected(detect, data) for data in (blank_picture, SAMPLES["tiny.png"].path.read_bytes())]
        recognise.handle(*tasks)
        assert [words(task) for task in tasks] == [[], SAMPLES["tiny.png"].words]

    def test_min_score_leaves_out_what_is_uncertain(self, detect: Detect, recognise: Recognise) -> None:
        task = detected(detect, SAMPLES["tiny.png"].path.read_bytes(), min_score=1.0)
        recognise.handle(task)
        assert task.lines == []

    def test_a_finished_task_carries_only_its_result(
        self, found: Callable[[str], OcrTask], read: Callable[[str], OcrTask]
    ) -> None:
        task = found("large.jpg")
        assert task.image is None and task.pixels is None
        assert task.strips and all(strip.pixels.shape[0] <= LINE_HEIGHT for strip in task.strips)
        task = read("large.jpg")
        assert task.strips == [] and len(pickle.dumps(task)) < 10_000
        assert all(isinstance(line, Line) for line in task.lines)

    @pytest.mark.parametrize("size", [(1, 1), (3, 2000), (2000, 3), (31, 33)])
    def test_odd_sizes_are_no_error(self, size: tuple[int, int], detect: Detect, recognise: Recognise) -> None:
        file = io.BytesIO()
        Image.new("RGB", size, "white").save(file, "PNG")
        task = detected(detect, file.getvalue())
        recognise.handle(task)
        assert (task.width, task.height) == size and task.lines == []


class NotingReader(LineReader):
    """The real reader, which notes each call in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def read(self, strips: list[Pixels]) -> list[tuple[str, float]]:
        note(self.path, len(strips))
        return super().read(strips)


class NotingRecognise(Recognise):
    """The real handler, of which the lines that it reads are noted."""

    def __init__(self, path: Path) -> None:
        super().__init__(nice=0)
        self.path = path

    def on_start(self) -> None:
        self.reader = NotingReader(self.path)


async def test_lines_come_when_they_are_read_and_leaving_ends_the_reading(
    found: Callable[[str], OcrTask], tmp_path: Path
) -> None:
    sign, tiny, long = found("sign.jpg"), found("tiny.png"), found("tiny.png")
    long.strips *= 150
    async with running(Flow(FlowStep(NotingRecognise(tmp_path / "calls"), batch_size=4))) as flow:
        stream = flow.stream(sign, timeout_sec=30)
        first = await anext(stream)
        assert (first.number, first.of, sign.lines) == (1, 3, [])
        lines = [first, *[item async for item in stream if isinstance(item, ReadLine)]]
        assert [line.number for line in lines] == [1, 2, 3]
        assert [Line(line.text, line.score, line.box) for line in lines] == sign.lines

        async with flow.stream(long, timeout_sec=30) as stream:
            assert (await anext(stream)).of == 150
        await flow.process(tiny, timeout_sec=30)
        assert words(tiny) == SAMPLES["tiny.png"].words
        assert flow.statistics().cancelled == 1 and len(notes(tmp_path / "calls")) < 150


class TestPictures:
    @pytest.mark.parametrize("data", [b"", b"hello", b"%PDF-1.7 nothing", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(4096)])
    def test_what_is_no_picture_is_refused(self, data: bytes) -> None:
        with pytest.raises(NotAPicture, match="JPEG"):
            read_picture(memoryview(data))

    def test_a_damaged_picture_is_told_from_none(self, sample: Sample) -> None:
        data = sample.path.read_bytes()
        with pytest.raises(UnreadablePicture, match="damaged"):
            read_picture(memoryview(data)[: len(data) // 2])

    def test_a_picture_that_would_fill_the_memory_is_refused_unopened(self) -> None:
        file = io.BytesIO()
        Image.new("1", (10_001, MAX_PIXELS // 10_000)).save(file, "PNG")
        assert len(file.getvalue()) < 10_000
        with pytest.raises(PictureTooLarge, match=str(MAX_PIXELS)):
            read_picture(file.getvalue())

    @pytest.mark.parametrize("kind", [NotAPicture, UnreadablePicture, PictureTooLarge])
    def test_errors_travel_between_processes(self, kind: type[PictureError]) -> None:
        again = pickle.loads(pickle.dumps(kind("why")))
        assert type(again) is kind and str(again) == "why"

    def test_the_orientation_of_the_camera_is_applied(self) -> None:
        path = SAMPLES["phone.jpg"].path
        with Image.open(path) as image:
            upright = exif_transpose(image)
        pixels = read_picture(path.read_bytes())
        assert pixels.shape == (upright.height, upright.width, 3)
        assert np.array_equal(pixels[..., ::-1], np.asarray(upright))

    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
    def test_every_kind_of_colour_becomes_three_bytes(self, mode: str) -> None:
        file = io.BytesIO()
        Image.new("RGB", (40, 30), "white").convert(mode).save(file, "TIFF")
        assert (read_picture(file.getvalue()) == 255).all()

    def test_what_is_transparent_is_white(self) -> None:
        file = io.BytesIO()
        Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(file, "PNG")
        assert (read_picture(file.getvalue()) == 255).all()


class TestReadingOrder:
    def test_lines_side_by_side_are_read_from_left_to_right(self) -> None:
        lines = [box(300, 12), box(10, 10), box(10, 50), box(300, 47)]
        assert reading_order(lines) == [1, 0, 2, 3]

    def test_the_order_follows_the_text_and_not_the_picture(self) -> None:
        upright = [box(10, 10), box(300, 12), box(10, 50)]
        upside_down = [(1000 - corners).astype(np.float32) for corners in upright]
        assert reading_order(upside_down) == [0, 1, 2]

    def test_nothing_is_in_order(self) -> None:
        assert reading_order([]) == []


def box(left: float, top: float, width: float = 100, height: float = 30) -> Corners:
    right, bottom = left + width, top + height
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float32)


def test_workers_import_no_web_framework_and_no_model_they_do_not_need() -> None:
    command = [sys.executable, "-c", "import example_app.pipeline, sys; print(*sys.modules)"]
    finished = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=150)
    assert {"fastapi", "starlette", "onnxruntime", "rapidocr", "cv2"}.isdisjoint(finished.stdout.split())
