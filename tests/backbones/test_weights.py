"""Pretrained weights: what loads, what is refused and how it is said. The only network here is 127.0.0.1."""

import errno
import hashlib
import io
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from backbones import BackboneError, BackboneSettings, build_backbone, weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def network() -> State:
    """resnet18's tensors as ImageNet training could leave them."""
    torch.manual_seed(0)
    state = models.resnet18(weights=None).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
    return state


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torch.hub keeps files, for this test."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1")
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """A folder and the address under which its files are served."""
    folder = tmp_path / "served"
    folder.mkdir()
    served = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=served.serve_forever)
    thread.start()
    yield folder, f"http://127.0.0.1:{served.server_port}"
    served.shutdown()
    served.server_close()
    thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        """Says nothing."""


def refusal(action: Callable[[], object]) -> str:
    with pytest.raises(BackboneError) as refused:
        action()
    message = str(refused.value)
    assert "\n" not in message
    return message


def settings(file: Path | str, head: str = "c4", norm: str = "frozen") -> BackboneSettings:
    return BackboneSettings("resnet18", head, norm, weights=str(file), pyramid_channels=32)


def saved(content: object, folder: Path) -> Path:
    torch.save(content, folder / "weights.pth")
    return folder / "weights.pth"


# --- files


@pytest.mark.parametrize("head", ["c4", "fpn"])
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_report_counts_every_tensor_but_the_pyramids(head: str, norm: str, network: State, tmp_path: Path) -> None:
    """ResNet-18: 17 convolutions, 3 projections, and 4 tensors of normalization after each."""
    path = saved(network, tmp_path)
    assert (
        build_backbone(settings(path, head, norm)).report
        == f"weights {path}: 100 of 100 tensors loaded, 2 in the file not needed"
    )


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda state: {"model": state, "epoch": 3},
        lambda state: {"state_dict": {"module." + name: tensor for name, tensor in state.items()}},
        lambda state: {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")},
        lambda state: {name: tensor.double() for name, tensor in state.items()},
    ],
    ids=["model", "state_dict of DDP", "old file without counters", "float64"],
)
@pytest.mark.parametrize("norm", ["frozen", "batch"])
def test_forms_of_a_file(wrapped: Callable[[State], object], norm: str, network: State, tmp_path: Path) -> None:
    trunk, tail, _ = build_backbone(settings(saved(wrapped(network), tmp_path), norm=norm))
    loaded = {**trunk.body.state_dict(), **tail.state_dict()}
    assert len([name for name in loaded if not name.endswith("num_batches_tracked")]) == 100
    for name, tensor in loaded.items():
        assert tensor.dtype == network[name].dtype
        assert torch.equal(tensor, network[name]), name


def test_missing_file() -> None:
    message = refusal(lambda: build_backbone(settings("nowhere/imagenet1k_v3")))
    assert message == (
        "weights nowhere/imagenet1k_v3: there is no such file; give imagenet1k_v1, imagenet1k_v2, none or a file"
    )


@pytest.mark.parametrize("length", [0, 10, 1000, -1])
def test_damaged_file(length: int, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"weight": torch.rand(1000)}, buffer)
    path = tmp_path / "cut.pth"
    path.write_bytes(buffer.getvalue()[:length])
    message = refusal(lambda: weights.read(path))
    assert message.startswith(f"weights {path}: the file is damaged or no file of weights (")
    assert message.endswith("); delete or replace it")


def test_file_of_another_kind(tmp_path: Path) -> None:
    page = tmp_path / "page.pth"
    page.write_text("<html>404 not found</html>")
    assert "the file is damaged or no file of weights" in refusal(lambda: weights.read(page))


class Opaque:
    """What unpickling would have to execute code for."""


def test_nothing_in_a_file_is_executed(tmp_path: Path) -> None:
    path = saved({"weight": Opaque()}, tmp_path)
    assert "the file is damaged or no file of weights" in refusal(lambda: weights.read(path))


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}, torch.zeros(3), {"model": {}}])
def test_file_without_tensors(content: object, tmp_path: Path) -> None:
    path = saved(content, tmp_path)
    assert refusal(lambda: weights.read(path)) == (
        f"weights {path}: the file holds no tensors by name; give a state dict saved by torch.save"
    )


def test_missing_tensors_are_named(network: State, tmp_path: Path) -> None:
    lost = [name for name in network if name.startswith("layer4.1.")]
    path = saved({name: tensor for name, tensor in network.items() if name not in lost}, tmp_path)
    assert refusal(lambda: build_backbone(settings(path))) == (
        f"weights {path}: 10 of the 100 tensors of resnet18 are missing (layer4.1.conv1.weight, layer4.1.bn1.weight, "
        "layer4.1.bn1.bias, ...); give weights of this backbone and normalization"
    )


def test_wrong_shapes_are_named(network: State, tmp_path: Path) -> None:
    path = saved({**network, "conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path)
    assert refusal(lambda: build_backbone(settings(path))) == (
        f"weights {path}: 1 of the 100 tensors of resnet18 have another shape "
        "(conv1.weight is (64, 1, 7, 7) instead of (64, 3, 7, 7)); give weights of this backbone"
    )


@pytest.mark.parametrize("norm", ["frozen", "batch", "sync"])
def test_statistics_that_were_never_loaded(norm: str, tmp_path: Path) -> None:
    path = saved(models.resnet18(weights=None).state_dict(), tmp_path)
    assert refusal(lambda: build_backbone(settings(path, norm=norm))) == (
        f"weights {path}: the running variances are all ones in 20 layers (bn1.running_var, layer1.0.bn1.running_var, "
        "layer1.0.bn2.running_var, ...), so batch statistics were never loaded into it; give a file that has them"
    )


def test_batch_statistics_are_not_dropped_for_group_normalization(network: State, tmp_path: Path) -> None:
    message = refusal(lambda: build_backbone(settings(saved(network, tmp_path), norm="group")))
    assert "it was trained with batch normalization (bn1.running_var, " in message
    assert message.endswith("which resnet18 with norm group has not; change the norm, or give --weights none|FILE")


def test_weights_of_group_normalization(tmp_path: Path) -> None:
    """17 convolutions, 3 projections, and 2 tensors of normalization after each."""
    source = build_backbone(settings("none", "fpn", "group")).trunk
    path = saved(source.body.state_dict(), tmp_path)
    trunk, _, report = build_backbone(settings(path, "fpn", "group"))
    assert report == f"weights {path}: 60 of 60 tensors loaded, 0 in the file not needed"
    for name, tensor in trunk.body.state_dict().items():
        assert torch.equal(tensor, source.body.state_dict()[name])


def test_vgg_with_batch_normalization_finds_its_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """13 convolutions with weight and bias, and 4 tensors of normalization after each."""
    with torch.device("meta"):
        state = models.vgg16_bn().state_dict()
    monkeypatch.setattr(weights, "read", lambda path: {name: torch.full(t.shape, 0.5) for name, t in state.items()})
    trunk, _, report = build_backbone(BackboneSettings("vgg16", "fpn", "batch", weights="vgg16_bn.pth"))
    assert report == "weights vgg16_bn.pth: 78 of 78 tensors loaded, 6 in the file not needed"
    assert all(bool((parameter == 0.5).all()) for parameter in trunk.body.parameters())


# --- downloads


def serve(content: object, folder: Path, stem: str) -> str:
    """Writes a file whose name carries the first 8 digits of its SHA-256, as the published ones; returns the name."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    name = f"{stem}-{hashlib.sha256(buffer.getvalue()).hexdigest()[:8]}.pth"
    (folder / name).write_bytes(buffer.getvalue())
    return name


def test_download_is_checked_and_kept(server: tuple[Path, str], cache: Path) -> None:
    folder, address = server
    name = serve({"weight": torch.arange(3.0)}, folder, "tiny")
    assert weights.download(f"{address}/{name}")["weight"].tolist() == [0.0, 1.0, 2.0]
    assert (cache / name).read_bytes() == (folder / name).read_bytes()
    (folder / name).unlink()
    assert weights.download(f"{address}/{name}")["weight"].tolist() == [0.0, 1.0, 2.0]


def test_wrong_hash(server: tuple[Path, str], cache: Path) -> None:
    folder, address = server
    name = serve({"weight": torch.arange(3.0)}, folder, "tiny")
    (folder / "tiny-00000000.pth").write_bytes((folder / name).read_bytes())
    url = f"{address}/tiny-00000000.pth"
    message = refusal(lambda: weights.download(url))
    assert message.startswith(f'{url} arrived damaged (invalid hash value (expected "00000000"')
    assert message.endswith(
        f"try again, put the file at {cache / 'tiny-00000000.pth'} by hand, or give --weights none|FILE"
    )
    assert list(cache.iterdir()) == []


def test_file_that_is_not_served(server: tuple[Path, str], cache: Path) -> None:
    url = f"{server[1]}/absent-00000000.pth"
    assert refusal(lambda: weights.download(url)) == (
        f"{url} cannot be downloaded (HTTP Error 404: File not found); "
        f"put the file at {cache / 'absent-00000000.pth'} by hand, or give --weights none|FILE"
    )


def test_damaged_file_in_the_cache(cache: Path) -> None:
    cache.mkdir(parents=True)
    (cache / "tiny-00000000.pth").write_bytes(b"cut")
    message = refusal(lambda: weights.download("http://127.0.0.1:9/tiny-00000000.pth"))
    assert message.startswith(f"weights {cache / 'tiny-00000000.pth'}: the file is damaged")


def test_without_a_network(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unresolved(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    assert refusal(lambda: build_backbone(settings("imagenet1k_v1"))) == (
        "https://download.pytorch.org/models/resnet18-f37072fd.pth cannot be downloaded "
        f"([Errno {socket.EAI_NONAME}] Name or service not known); "
        f"put the file at {cache / 'resnet18-f37072fd.pth'} by hand, or give --weights none|FILE"
    )


def test_refused_connection(cache: Path) -> None:
    url = f"http://127.0.0.1:{closed_port()}/tiny-00000000.pth"
    message = refusal(lambda: weights.download(url))
    assert message.startswith(f"{url} cannot be downloaded ([Errno {errno.ECONNREFUSED}] ")
    assert message.endswith(f"put the file at {cache / 'tiny-00000000.pth'} by hand, or give --weights none|FILE")
    assert list(cache.iterdir()) == []


def closed_port() -> int:
    """A port that was free a moment ago."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as probe:
        return probe.server_port


def test_file_put_in_the_cache_by_hand(network: State, cache: Path) -> None:
    """The place that the message names is the place that is read."""
    cache.mkdir(parents=True)
    torch.save(network, cache / "resnet18-f37072fd.pth")
    trunk, _, report = build_backbone(settings("imagenet1k_v1"))
    assert report == "ImageNet weights imagenet1k_v1: 100 of 100 tensors loaded, 2 in the file not needed"
    assert torch.equal(trunk.body.conv1.weight, network["conv1.weight"])


@pytest.mark.parametrize(
    ("backbone", "norm", "name"),
    [
        ("vgg16", "none", "vgg16-397923af"),
        ("vgg16", "batch", "vgg16_bn-6c64b313"),
        ("vgg19", "batch", "vgg19_bn-c79401a0"),
    ],
)
def test_normalization_chooses_the_vgg_weights(
    backbone: str, norm: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(weights, "download", lambda url: asked.append(url) or {})
    with torch.device("meta"):
        refusal(lambda: build_backbone(BackboneSettings(backbone, "fpn", norm, weights="imagenet1k_v1")))
    assert asked == [f"https://download.pytorch.org/models/{name}.pth"]
