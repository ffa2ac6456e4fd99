"""A model behind the contract of Amazon SageMaker, for plug-ins of the package inference-server and for plain modules.

Example:
        # inference.py
        def model_fn(model_dir):
            return load(model_dir)

        # main.py; or `fastapi-aqueduct sagemaker inference`
        from fastapi_aqueduct.sagemaker import create_app

        app = create_app("inference", nprocs=2)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .. import __version__ as __version__

if TYPE_CHECKING:
    from . import default_plugin, testing
    from .accept import MIMEAccept
    from .app import create_app, warmup
    from .errors import InvocationError, NotAcceptable, UnsupportedContentType
    from .hooks import BatchStrategy, plugin_hook

__all__ = [
    "BatchStrategy",
    "InvocationError",
    "MIMEAccept",
    "NotAcceptable",
    "UnsupportedContentType",
    "create_app",
    "default_plugin",
    "plugin_hook",
    "testing",
    "warmup",
]

# Loaded on first access: workers import a plug-in, which imports this package, and must not load a web framework.
_MODULES = {
    "BatchStrategy": "hooks",
    "InvocationError": "errors",
    "MIMEAccept": "accept",
    "NotAcceptable": "errors",
    "UnsupportedContentType": "errors",
    "create_app": "app",
    "plugin_hook": "hooks",
    "warmup": "app",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f".{_MODULES.get(name, name)}", __name__)
    value = globals()[name] = getattr(module, name) if name in _MODULES else module
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
