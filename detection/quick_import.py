"""torchvision without the compiler: half of the time until a tool begins to work.

``torchvision.ops.roi_align`` imports a function of ``torch._dynamo``, the compiler behind ``torch.compile`` with 900
modules more and sympy: 2 of the 4.7 seconds that torch and torchvision take. It asks by it, when called on a GPU,
whether anything can be compiled. Here it gets a function that imports the compiler when it is called.
"""

import importlib
import sys
import types
from typing import Any

_COMPILER = "torch._dynamo.utils"


def import_torchvision() -> None:
    """Import torchvision, and the compiler only when something asks for it."""
    if "torchvision" in sys.modules or _COMPILER in sys.modules:
        return
    sys.modules[_COMPILER] = _Later(_COMPILER)
    try:
        importlib.import_module("torchvision")
    finally:
        if isinstance(sys.modules[_COMPILER], _Later):
            del sys.modules[_COMPILER]


class _Later(types.ModuleType):
    """Stands for the module while torchvision is imported."""

    def __getattr__(self, name: str) -> Any:
        if name == "is_compile_supported":
            return _is_compile_supported
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(_real(), name)


def _is_compile_supported(device_type: str) -> bool:
    return _real().is_compile_supported(device_type)


def _real() -> types.ModuleType:
    if isinstance(sys.modules.get(_COMPILER), _Later):
        del sys.modules[_COMPILER]
    return importlib.import_module(_COMPILER)
