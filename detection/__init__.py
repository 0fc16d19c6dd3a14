"""ResiDet: Faster R-CNN with residual networks and VGG on torchvision.

``load_detector("runs/x/best.pt")(image)`` is all that is needed to use a trained detector from Python.
"""

from typing import Any

__all__ = ["load_detector"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """Import :func:`load_detector`, and torch with it, when it is first asked for: ``--help`` need not wait for it."""
    if name == "load_detector":
        from detection.inference.predictor import load_detector

        return load_detector
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
