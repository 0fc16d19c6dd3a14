"""Pretrained weights: found by name or in a file, downloaded, verified, loaded, and counted.

A name means torchvision's ImageNet weights, downloaded once into the cache of torch.hub and checked against the hash
in the file's name. Every tensor of the trunk (and of the tail) must be in the file, in the right shape; a pyramid is
always new. Files are read with ``weights_only=True``: nothing in them is executed.
"""

import sys
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor
from torchvision import models

from backbones.errors import BackboneError
from backbones.norm import require_statistics
from backbones.settings import BackboneSettings
from backbones.trunk import Assembly

IMAGENET = ("imagenet1k_v1", "imagenet1k_v2")
COUNTER = "num_batches_tracked"
"""A tensor that batch normalization only needs without momentum; older files and frozen layers do not have it."""
SHOWN = 3
"""How many tensors a message names."""


def load_pretrained(settings: BackboneSettings, assembly: Assembly) -> str:
    """Loads `settings.weights` into the modules of `assembly.published`, in place.

    Returns:
        One line that says what was loaded.

    Raises:
        BackboneError: the weights cannot be had or read, do not fit, or hold no batch statistics; or there are none,
            and the normalization is frozen.
    """
    if settings.weights == "none":
        require_statistics(settings)
        return "no pretrained weights"
    if settings.weights in IMAGENET:
        source, given = f"ImageNet weights {settings.weights}", download(_imagenet_url(settings, assembly))
    else:
        source, given = f"weights {settings.weights}", read(Path(settings.weights).expanduser())
    expected = _expected(assembly)
    _check_names_and_shapes(source, settings.name, given, expected)
    _check_statistics(source, settings, given, expected)
    with torch.no_grad():
        for name in expected.keys() & given.keys():
            expected[name].copy_(given[name])
    loaded = sum(name in given and not name.endswith(COUNTER) for name in expected)
    wanted = sum(not name.endswith(COUNTER) for name in expected)
    unused = sum(name not in expected and not name.endswith(COUNTER) for name in given)
    return f"{source}: {loaded} of {wanted} tensors loaded, {unused} in the file not needed"


def download(url: str, otherwise: str = "give --weights none|FILE") -> dict[str, Tensor]:
    """The state dict at `url`, from the cache of torch.hub if it is there.

    Args:
        otherwise: what a user can do who cannot fetch it by hand either.

    Raises:
        BackboneError: no connection, no room, a hash other than the one in the file's name, or a damaged file.
    """
    place = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    by_hand = f"put the file at {place} by hand, or {otherwise}"
    if not place.is_file():
        hash_in_name = torch.hub.HASH_REGEX.search(place.name)
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            hash_prefix = hash_in_name.group(1) if hash_in_name else None
            torch.hub.download_url_to_file(url, str(place), hash_prefix, progress=sys.stderr.isatty())
        except (OSError, HTTPException) as error:
            raise BackboneError(f"{url} cannot be downloaded ({_brief(error)}); {by_hand}") from error
        except RuntimeError as error:
            raise BackboneError(f"{url} arrived damaged ({_brief(error)}); try again, {by_hand}") from error
    return read(place)


def read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name: a state dict, or one under "model" or "state_dict", without "module." prefixes.

    Raises:
        BackboneError: the file is missing, cannot be read, or holds no tensors by name.
    """
    if not path.is_file():
        raise BackboneError(f"weights {path}: there is no such file; give {', '.join(IMAGENET)}, none or a file")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can end in nearly any exception
        raise BackboneError(
            f"weights {path}: the file is damaged or no file of weights ({_brief(error)}); delete or replace it"
        ) from error
    tensors = _tensors(content)
    if not tensors:
        raise BackboneError(f"weights {path}: the file holds no tensors by name; give a state dict saved by torch.save")
    return tensors


def _tensors(content: Any) -> dict[str, Tensor]:
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    pairs = content.items() if isinstance(content, Mapping) else ()
    return {str(name).removeprefix("module."): value for name, value in pairs if isinstance(value, Tensor)}


def _imagenet_url(settings: BackboneSettings, assembly: Assembly) -> str:
    """Where torchvision keeps the weights, if it has any that fit."""
    if not assembly.imagenet:
        raise BackboneError(f"norm {settings.norm}: the ImageNet weights of {settings.name} {assembly.why_none}")
    published = models.get_model_weights(assembly.imagenet).__members__
    wanted = settings.weights.upper()
    if wanted not in published:
        raise BackboneError(
            f"weights {settings.weights}: torchvision has none for {assembly.imagenet}; use --weights imagenet1k_v1"
        )
    return published[wanted].url


def _expected(assembly: Assembly) -> dict[str, Tensor]:
    """The tensors that must be found, by their published names; writing into them changes the modules."""
    return {
        prefix + name: tensor for prefix, module in assembly.published for name, tensor in module.state_dict().items()
    }


def _check_names_and_shapes(
    source: str, backbone: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    required = [name for name in expected if not name.endswith(COUNTER)]
    missing = [name for name in required if name not in given]
    if missing:
        raise BackboneError(
            f"{source}: {len(missing)} of the {len(required)} tensors of {backbone} are missing ({_some(missing)}); "
            "give weights of this backbone and normalization"
        )
    wrong = [
        f"{name} is {tuple(given[name].shape)} instead of {tuple(expected[name].shape)}"
        for name in required
        if given[name].shape != expected[name].shape
    ]
    if wrong:
        raise BackboneError(
            f"{source}: {len(wrong)} of the {len(required)} tensors of {backbone} have another shape ({_some(wrong)}); "
            "give weights of this backbone"
        )


def _check_statistics(
    source: str, settings: BackboneSettings, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> None:
    """Batch statistics must be real where they are used, and absent where they would go unused."""
    variances = [name for name in given if name.endswith("running_var")]
    empty = [name for name in variances if name in expected and bool((given[name] == 1).all())]
    if empty:
        raise BackboneError(
            f"{source}: the running variances are all ones in {len(empty)} layers ({_some(empty)}), so batch "
            "statistics were never loaded into it; give a file that has them"
        )
    unused = [name for name in variances if name not in expected and name.replace("running_var", "bias") in expected]
    if unused:
        raise BackboneError(
            f"{source}: it was trained with batch normalization ({_some(unused)}), which {settings.name} with norm "
            f"{settings.norm} has not; change the norm, or give --weights none|FILE"
        )


def _some(words: list[str]) -> str:
    return ", ".join(words[:SHOWN]) + (", ..." if len(words) > SHOWN else "")


def _brief(error: BaseException) -> str:
    """The first line of an error's text, or its kind."""
    lines = str(error).strip().removeprefix("<urlopen error ").removesuffix(">").splitlines()
    return lines[0][:200].rstrip(" .") if lines else type(error).__name__
