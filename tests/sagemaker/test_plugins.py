"""How the hooks of a module, and of installed plug-ins, are found, and what they declare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import pytest

from fastapi_aqueduct import ConfigurationError
from fastapi_aqueduct import sagemaker as inference_server
from fastapi_aqueduct.sagemaker import BatchStrategy, testing
from fastapi_aqueduct.sagemaker.contract import Contract
from fastapi_aqueduct.sagemaker.environment import Environment
from fastapi_aqueduct.sagemaker.plugins import HookManager, PlugIn, installed

from . import batched, tides, wrong

WRONG = wrong.__name__


def load(target: str | None, code_dir: str = "") -> HookManager:
    return PlugIn(target, code_dir).load()


def test_marked_functions_are_hooks_or_all_with_their_names() -> None:
    marked, plain = load(tides.__name__), load(batched.__name__)
    assert marked.functions("predict_fn") == [tides.predict_fn]
    assert marked.functions("batch_strategy") == []
    assert plain.functions("batch_strategy") == [batched.batch_strategy]
    assert plain.functions("model_fn") == []
    assert plain.hook.model_fn(model_dir="")(b"x") == b"x"


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("no_such_module", "there is no module no_such_module, and no installed plug-in no_such_module"),
        (f"{WRONG}:Missing", "module tests.sagemaker.wrong has no Missing"),
        (f"{WRONG}:Nothing", "has no hook: it needs a function model_fn"),
        (f"{WRONG}:OtherNames", "a hook cannot be called: (.|\n)*wrong:OtherNames(.|\n)*request_body"),
        (f"{WRONG}:Asynchronous", "Asynchronous.predict_fn is declared with `async def`"),
    ],
)
def test_what_cannot_be_called_is_refused_in_words(target: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load(target)


def test_the_code_beside_the_model_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ConfigurationError):
        load("beside_the_model", str(tmp_path / "missing"))
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "beside_the_model.py").write_text("def predict_fn(data):\n    return data * 2\n")
    assert testing.predict(b"x", target="beside_the_model", model_dir=tmp_path) == b"xx"


@pytest.fixture
def entry_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Install two plug-ins, as pip does: one with a model, one that writes its predictions."""
    entries = f"[inference_server]\ntides = {tides.__name__}\nupper = upper:Upper\n"
    write_distribution(tmp_path, entries)
    (tmp_path / "upper.py").write_text(
        "from fastapi_aqueduct import sagemaker as inference_server\n"
        "class Upper:\n"
        "    @staticmethod\n"
        "    @inference_server.plugin_hook(tryfirst=True)\n"
        "    def output_fn(prediction): return str(prediction).upper().encode(), 'text/plain'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    installed.cache_clear()
    yield
    installed.cache_clear()


def write_distribution(directory: Path, entries: str) -> None:
    metadata = directory / "harbours-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: harbours\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(entries)


def test_hooks_may_come_from_several_installed_packages(entry_points: None, tmp_path: Path) -> None:
    assert testing.plugin_is_registered(tides)
    assert testing.hookimpl_is_valid(tides.model_fn)
    assert not testing.plugin_is_registered(batched)
    assert not testing.hookimpl_is_valid(batched.input_fn)
    reply = testing.post_invocations(model_dir=tmp_path, json={"harbour": "Brest"})
    assert reply.content_type == "text/plain; charset=utf-8"
    assert reply.text.startswith("{'HARBOUR': 'BREST'")
    one = testing.post_invocations(target="tides", model_dir=tmp_path, json={"harbour": "Brest"})
    assert one.json()["height"] == 7.5


def test_a_test_may_register_a_model_that_is_ill() -> None:
    class Ill:
        @staticmethod
        @inference_server.plugin_hook()
        def ping_fn(model: Any) -> bool:
            return False

    client, manager = testing.client(), testing.plugin_manager()
    assert client.get("/ping").status_code == 200
    manager.register(Ill)
    try:
        assert client.get("/ping").status_code == 503
    finally:
        manager.unregister(Ill)


def test_a_test_may_register_a_plugin(tmp_path: Path) -> None:
    class Model:
        @staticmethod
        @inference_server.plugin_hook()
        def model_fn(model_dir: str) -> Callable[[bytes], bytes]:
            return lambda data: f"{Path(model_dir).name}: ".encode() + data

    manager = testing.plugin_manager()
    manager.register(Model)
    try:
        assert testing.plugin_is_registered(Model)
        assert testing.predict(b"text", model_dir=tmp_path / "other") == b"other: text"
    finally:
        manager.unregister(Model)
    assert testing.predict(b"text") == b"text"


def test_the_default_plugin_is_one_like_others() -> None:
    default = inference_server.default_plugin
    assert testing.plugin_is_registered(default)
    assert all(testing.hookimpl_is_valid(getattr(default, name)) for name in ("model_fn", "ping_fn", "output_fn"))
    assert not testing.hookimpl_is_valid(lambda x: x)


def test_the_names_of_the_package() -> None:
    assert inference_server.__version__
    assert inference_server.testing is testing
    assert BatchStrategy("MultiRecord") is BatchStrategy.MULTI_RECORD
    inference_server.warmup()
    assert dir(inference_server) == sorted(inference_server.__all__)
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        getattr(inference_server, "predict")  # noqa: B009


def test_the_extra_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pluggy", None)
    monkeypatch.delitem(sys.modules, "fastapi_aqueduct.sagemaker.hooks")
    with pytest.raises(ConfigurationError, match=r"needs pluggy: .*fastapi-aqueduct\[sagemaker\]"):
        import_module("fastapi_aqueduct.sagemaker.hooks")


def manager_of(**hooks: Callable[..., Any]) -> HookManager:
    manager = HookManager()
    manager.register(type("PlugIn", (), {name: staticmethod(function) for name, function in hooks.items()}))
    return manager


def declared(content_type: Any, result: Any) -> Contract:
    def input_fn(content_type: Any) -> Any: ...
    def output_fn(prediction: Any) -> Any: ...

    input_fn.__annotations__["content_type"] = content_type
    output_fn.__annotations__["return"] = result
    return Contract.of(manager_of(input_fn=input_fn, output_fn=output_fn))


def test_hooks_declare_their_media_types_by_annotations() -> None:
    found = declared(Literal["text/csv", "image/*"], tuple[bytes, Literal["text/csv"]])
    assert (found.content_types, found.media_types) == (("text/csv", "image/*"), ("text/csv",))
    for content_type, result in [(str, tuple[bytes, str]), ("Missing", "Missing"), (Literal["a/b"] | None, bytes)]:
        found = declared(content_type, result)
        assert (found.content_types, found.media_types) == ((), ())


def test_two_plugins_declare_what_both_read() -> None:
    def csv(content_type: Literal["text/csv"]) -> Any: ...
    def json(content_type: Literal["application/json"]) -> Any: ...
    def other(content_type: str) -> Any: ...

    manager = manager_of(input_fn=csv)
    manager.register(type("Json", (), {"input_fn": staticmethod(json)}))
    assert Contract.of(manager).content_types == ("application/json", "text/csv")
    manager.register(type("Other", (), {"input_fn": staticmethod(other)}))
    assert Contract.of(manager).content_types == ()


def test_the_variables_of_sagemaker() -> None:
    found = Environment.read({})
    assert (found.model_dir, found.submit_dir, found.program) == ("/opt/ml/model", None, None)
    assert (found.workers, found.timeout, found.start_timeout, found.accept) == (1, 60, None, "*/*")
    assert (found.max_body_size, found.port, found.log_level) == (100 << 20, 8080, 20)
    found = Environment.read(
        {
            "SAGEMAKER_BASE_DIR": "/data",
            "SAGEMAKER_PROGRAM": "inference.py",
            "SAGEMAKER_MODEL_SERVER_WORKERS": "4",
            "SAGEMAKER_MODEL_SERVER_TIMEOUT": "20",
            "SAGEMAKER_STARTUP_TIMEOUT": "600",
            "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "text/csv",
            "SAGEMAKER_MAX_PAYLOAD_IN_MB": "6",
            "SAGEMAKER_BIND_TO_PORT": "9000",
            "SAGEMAKER_CONTAINER_LOG_LEVEL": " ",
        }
    )
    assert (found.model_dir, found.program, found.workers) == ("/data/model", "inference", 4)
    assert (found.timeout, found.start_timeout, found.accept) == (20, 600, "text/csv")
    assert (found.max_body_size, found.port, found.log_level) == (6 << 20, 9000, 20)
    assert Environment.read({"SAGEMAKER_MODEL_SERVER_TIMEOUT_SECONDS": "5"}).timeout == 5
    assert Environment.read({"SM_MODEL_DIR": "/m", "SAGEMAKER_BASE_DIR": "/data"}).model_dir == "/m"
    assert Environment.read({"SAGEMAKER_SUBMIT_DIRECTORY": "/c"}).submit_dir == "/c"
    with pytest.raises(ConfigurationError, match="SAGEMAKER_BIND_TO_PORT=http is no whole number"):
        Environment.read({"SAGEMAKER_BIND_TO_PORT": "http"})
    with pytest.raises(ConfigurationError, match="multi-model endpoint"):
        Environment.read({"SAGEMAKER_MULTI_MODEL": "true"})
