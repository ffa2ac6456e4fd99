"""What a worker gets of its machine: which devices, threads and variables."""

from __future__ import annotations

import re
from typing import Any

import pytest

from fastapi_aqueduct import ConfigurationError, FlowStep, WorkerOptions
from fastapi_aqueduct.engine.workers.environment import THREAD_VARIABLES, make_environment

from ..handlers import Each

DEVICES = {
    "0": ({"CUDA_VISIBLE_DEVICES": "0"}, "cuda:0", "0"),
    "cuda:3": ({"CUDA_VISIBLE_DEVICES": "3"}, "cuda:0", "3"),
    "0,1": ({"CUDA_VISIBLE_DEVICES": "0,1"}, "cuda:0", "0,1"),
    "GPU-5f2c-9a": ({"CUDA_VISIBLE_DEVICES": "GPU-5f2c-9a"}, "cuda:0", "GPU-5f2c-9a"),
    "MIG-1d8b-77": ({"CUDA_VISIBLE_DEVICES": "MIG-1d8b-77"}, "cuda:0", "MIG-1d8b-77"),
    "MIG-GPU-5f2c-9a/1/0": ({"CUDA_VISIBLE_DEVICES": "MIG-GPU-5f2c-9a/1/0"}, "cuda:0", "MIG-GPU-5f2c-9a/1/0"),
    "hip:1": ({"HIP_VISIBLE_DEVICES": "1"}, "cuda:0", "1"),
    "hip:GPU-4b2c": ({"HIP_VISIBLE_DEVICES": "GPU-4b2c"}, "cuda:0", "GPU-4b2c"),
    "xpu:2": ({"ZE_AFFINITY_MASK": "2"}, "xpu:0", "2"),
    "xpu:0.1": ({"ZE_AFFINITY_MASK": "0.1"}, "xpu:0", "0.1"),
    "cpu": ({}, "cpu", "cpu"),
}


def threads(count: int) -> dict[str, str]:
    return dict.fromkeys(THREAD_VARIABLES, str(count))


@pytest.mark.parametrize("device", DEVICES)
def test_which_variable_shows_a_worker_its_device_and_what_the_library_calls_it(device: str) -> None:
    variables, inside, id = DEVICES[device]
    environment = make_environment(WorkerOptions(devices=[device]), 0, 1, {})
    assert environment == (threads(1) | variables, 1, inside, id)


def test_devices_are_dealt_by_the_index() -> None:
    options = WorkerOptions(devices=["0", "hip:1", "GPU-a"])
    assert [make_environment(options, index, 1, {}).device_id for index in range(5)] == ["0", "1", "GPU-a", "0", "1"]


def test_numbers_count_the_devices_that_the_api_process_sees() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "4, GPU-b,7", "ZE_AFFINITY_MASK": "3"}
    options = WorkerOptions(devices=["0", "cuda:1", "2,0", "GPU-c", "xpu:0", "hip:1"])
    dealt = [make_environment(options, index, 1, environ).device_id for index in range(6)]
    assert dealt == ["4", "GPU-b", "7,4", "GPU-c", "3", "1"]


@pytest.mark.parametrize("visible", ["4,7", "", "-1,-1,-1", "4,7,NoDevFiles"])
def test_a_number_beyond_those_is_refused(visible: str) -> None:
    words = f"there is no device 2 among those that this process sees, CUDA_VISIBLE_DEVICES={visible}, "
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        make_environment(WorkerOptions(devices=["2"]), 0, 1, {"CUDA_VISIBLE_DEVICES": visible})


def test_threads_are_the_share_of_the_cores_unless_the_user_says_otherwise() -> None:
    """The environment of the API process comes before the step's ``threads``, and its ``env`` before both."""
    set_by_user = {"OMP_NUM_THREADS": "3", "HOME": "/"}
    rest = {name: "5" for name in THREAD_VARIABLES if name != "OMP_NUM_THREADS"}
    assert make_environment(None, 0, 2, {}) == (threads(2), 2, None, None)
    assert make_environment(WorkerOptions(threads=5), 0, 2, {}) == (threads(5), 5, None, None)
    assert make_environment(WorkerOptions(threads=5), 0, 2, set_by_user) == (rest, 3, None, None)
    options = WorkerOptions(threads=5, env={"OMP_NUM_THREADS": "4,2"})
    assert make_environment(options, 0, 2, set_by_user) == (rest | {"OMP_NUM_THREADS": "4,2"}, 4, None, None)
    assert make_environment(None, 0, 2, {"OMP_NUM_THREADS": "many"}).threads == 2


def test_env_may_be_a_function_of_the_index() -> None:
    options = WorkerOptions(env=lambda index: {"PORT": str(9000 + index)})
    assert [make_environment(options, index, 1, {}).variables["PORT"] for index in range(2)] == ["9000", "9001"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"devices": "0"}, 'needs a list of devices, such as ["0", "1"], got \'0\' of type str'),
        ({"devices": {0}}, 'needs a list of devices, such as ["0", "1"], got {0} of type set'),
        ({"threads": 0}, "needs threads >= 1, got 0 of type int"),
        ({"threads": 1.5}, "needs threads >= 1, got 1.5 of type float"),
        ({"env": "A=1"}, "needs a dict of variables or a function as env, got 'A=1' of type str"),
        ({"env": {"A": 1}}, "needs names and values that are strings, got {'A': 1} of type dict"),
        (
            {"devices": ["hip:0"], "env": {"HIP_VISIBLE_DEVICES": "1"}},
            "WorkerOptions has devices, and HIP_VISIBLE_DEVICES in env: leave out one of the two",
        ),
    ],
)
def test_what_cannot_work_is_refused(options: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        WorkerOptions(**options)


def test_what_a_function_for_env_returns_is_checked_at_each_launch() -> None:
    wrong: Any = [None, {"A": 1}, {"CUDA_VISIBLE_DEVICES": "0"}]
    options = WorkerOptions(devices=["0"], env=wrong.__getitem__)
    for index in range(3):
        with pytest.raises(ConfigurationError, match="strings, got|leave out one of the two"):
            make_environment(options, index, 1, {})


def test_worker_options_are_all_that_a_step_accepts() -> None:
    options: Any = {"devices": ["0"]}
    with pytest.raises(ConfigurationError, match="the step with Each needs WorkerOptions as worker, got {'devices'"):
        FlowStep(Each(), worker=options)


@pytest.mark.parametrize(
    "device",
    [
        1,
        "",
        "gpu",
        "cuda:",
        "-1",
        "0,",
        "tpu:0",
        "cuda:0.1",
        "xpu:GPU-1",
        "cpu:0",
        "0 ",
        "\N{ARABIC-INDIC DIGIT THREE}",
        None,
    ],
)
def test_what_is_no_device_is_refused(device: Any) -> None:
    words = f'several for one worker such as "0,1", or "cpu", got {device!r} of type {type(device).__name__}'
    with pytest.raises(ConfigurationError, match=re.escape(words)):
        WorkerOptions(devices=["0", device])
