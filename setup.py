"""Installs the packages `detection` and `backbones`; everything a run needs comes with them."""

from setuptools import find_packages, setup

setup(
    name="residet",
    version="0.1.0",
    description="Faster R-CNN on residual networks and VGG-16: train, score and look at detectors",
    license="BSD-3-Clause",
    packages=find_packages(include=["detection", "detection.*", "backbones", "backbones.*"]),
    package_data={"detection.inspection": ["page/*"]},
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.11",
        "torchvision>=0.26",
        "albumentations==2.0.8",  # the last release under the MIT licence
        "opencv-python-headless>=4.11",  # decodes to RGB
        "numpy",
        "pillow",
        "PyYAML",
        "jsonargparse>=4.49",
        "docstring-parser",  # jsonargparse reads the settings' help texts with it
        "rich",
        "defusedxml",
        "msgspec",
        "hotcoco>=1.3",
        "pycocotools>=2.0.11",
        "matplotlib",
        "wandb>=0.31",
    ],
    extras_require={"test": ["pytest", "pytest-xdist", "hypothesis", "ruff", "playwright"]},
)
