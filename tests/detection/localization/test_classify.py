"""Guesses of a classifier: against torchvision's own testing of it, and against views cut by hand."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from torchvision import models
from torchvision.models import ResNet18_Weights

from detection import distributed
from detection.config import from_dict
from detection.data import read_annotations
from detection.data.dataset import read_image
from detection.errors import UserError
from detection.localization import classify
from detection.localization.classify import best_labels, guess, load_classifier, require_imagenet, ten_views

CPU = torch.device("cpu")
NAMES = tuple(f"n{number:08d} thing {number}" for number in range(11, 8011, 8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file with the weights of an untrained ResNet-18."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(models.resnet18().state_dict(), path)
    return path


@pytest.fixture
def data(tiny_config):
    return imagenet(tiny_config, "val")


def imagenet(tiny_config, name):
    annotations = read_annotations(from_dict(tiny_config).data, name)
    return dataclasses.replace(annotations, class_names=NAMES)


def pixels(path) -> torch.Tensor:
    return torch.from_numpy(read_image(path)).permute(2, 0, 1)


def directly(weights, path, views) -> list[int]:
    """With torchvision's preprocessing; the corners, the centre and the mirror images by hand."""
    network = models.resnet18()
    network.load_state_dict(torch.load(weights, weights_only=True))
    network.eval()
    preset = ResNet18_Weights.IMAGENET1K_V1.transforms()
    image = pixels(path)
    if views == "single":
        crops = [preset(image)]
    else:
        rows, columns = image.shape[1:]
        size = (256, int(256 * columns / rows)) if rows <= columns else (int(256 * rows / columns), 256)
        resized = torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear", antialias=True)
        resized = resized.round()[0] / 255
        mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        resized = (resized - mean.view(3, 1, 1)) / std.view(3, 1, 1)
        down, right = size[0] - 224, size[1] - 224
        corners = [(0, 0), (0, right), (down, 0), (down, right), (round(down / 2), round(right / 2))]
        crops = [resized[:, y : y + 224, x : x + 224] for y, x in corners]
        crops += [crop.flip(2) for crop in crops]
    with torch.no_grad():
        probabilities = network(torch.stack(crops)).softmax(dim=1).mean(dim=0)
    return (probabilities.argsort(descending=True)[:5] + 1).tolist()


@pytest.mark.parametrize("views", ["single", "10crop"])
def test_guesses_are_what_the_network_says(weights, tiny_config, views):
    """Of a wide and a tall image."""
    shares, data = [], imagenet(tiny_config, "unlabelled")
    found = guess(data, "resnet18", str(weights), views, CPU, shares.append, workers=0)
    assert found.shape == (2, 5) and found.dtype == np.int64
    assert shares == [0.5, 1]
    assert found.tolist() == [directly(weights, path, views) for path in data.image_paths]


def test_ten_views_of_small_numbers():
    """256 x 300 pixels: the corners are at (0, 0), (0, 76), (32, 0), (32, 76), the centre at (16, 38)."""
    image = torch.arange(256 * 300).view(1, 1, 256, 300) % 251
    views = ten_views(image.expand(-1, 3, -1, -1).to(torch.uint8))
    assert views.shape == (1, 10, 3, 224, 224)
    corners = [(0, 0), (0, 76), (32, 0), (32, 76), (16, 38)]
    mirrored = [1, 0, 3, 2, 4]  # the left of the mirror image is the right
    for number, (y, x) in enumerate(corners):
        crop = image[0, 0, y : y + 224, x : x + 224]
        assert torch.equal(views[0, number, 0].long(), crop)
        assert torch.equal(views[0, 5 + mirrored[number], 2].long(), crop.flip(1))


def test_probabilities_are_averaged_not_logits():
    """Softmax of (10, 0, ...) is nearly (1, 0, ...), however far the other view is the other way."""
    logits = torch.full((1, 3, 6), -100.0)
    logits[0, 0, 2], logits[0, 1, 2], logits[0, 2, 4] = 0, 0, 1000
    logits[0, :, 0], logits[0, :, 5] = -4, -5
    assert best_labels(logits)[0, :4].tolist() == [3, 5, 1, 6]


def test_several_processes_give_what_one_gives(weights, data, monkeypatch):
    monkeypatch.setattr(classify, "load_classifier", lambda name, weights: Small().eval())
    expected = guess(data, "resnet18", str(weights), "single", CPU, lambda share: None, workers=0)
    gathered = []
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "gather_objects", lambda part: gathered.append(part) or gathered)
    monkeypatch.setattr(distributed, "main_first", contextlib.nullcontext)
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    with pytest.raises(RuntimeError, match="exactly once"):
        guess(data, "resnet18", str(weights), "single", CPU, lambda share: None, workers=0)
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    found = guess(data, "resnet18", str(weights), "single", CPU, lambda share: None, workers=0)
    assert np.array_equal(found, expected)
    assert [sorted(seen) for _, seen in gathered] == [[0, 1], [2, 3, 4]]


class Small(torch.nn.Module):
    """The mean colours of sixteen fields, each class with its own liking."""

    def __init__(self):
        super().__init__()
        self.register_buffer("likes", torch.randn(3 * 16, 1000, generator=torch.Generator().manual_seed(1)))

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 4).flatten(1) @ self.likes


def refused(words, action, *arguments):
    with pytest.raises(UserError) as caught:
        action(*arguments)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_classes_than_imagenets_are_refused():
    require_imagenet(NAMES)
    others = NAMES[:-1], (*NAMES, "n99999999 more"), NAMES[::-1], tuple(f"thing {i}" for i in range(1000))
    for names in (*others, (*NAMES[:-1], NAMES[-2])):
        refused("--classifier guesses among ImageNet's 1000 classes", require_imagenet, names)


def test_classifiers_that_cannot_be_had_are_refused(weights, tmp_path):
    refused("--classifier resnet118: not one of resnet101, ", load_classifier, "resnet118", "imagenet1k_v1")
    refused("did you mean resnet18?", load_classifier, "resnet_18", "imagenet1k_v1")
    refused("swin_t", load_classifier, "swin_t", "imagenet1k_v1")
    missing = tmp_path / "none.pth"
    refused(f"--classifier_weights: weights {missing}: there is no such file", load_classifier, "resnet18", missing)
    refused("not of resnet34 (layer1.2.conv1.weight is missing", load_classifier, "resnet34", str(weights))
    state = torch.load(weights, weights_only=True)
    few = tmp_path / "few.pth"
    torch.save({**state, "fc.weight": torch.zeros(20, 512), "fc.bias": torch.zeros(20)}, few)
    words = "not of resnet18 (fc.weight is (20, 512) instead of (1000, 512); fc.bias is (20,) instead of (1000,))"
    refused(words, load_classifier, "resnet18", str(few))


def test_published_weights_are_fetched_as_a_backbones(weights, monkeypatch):
    asked = []
    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(classify, "download", lambda *words: asked.append(words) or state)
    network = load_classifier("resnet18", "IMAGENET1K_v1")
    assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "give --classifier_weights FILE")]
    assert torch.equal(network.fc.weight, state["fc.weight"]) and not network.training
    old = {name: value for name, value in state.items() if "num_batches_tracked" not in name}
    monkeypatch.setattr(classify, "download", lambda *words: old)
    assert torch.equal(load_classifier("resnet18", "imagenet1k_v1").fc.bias, state["fc.bias"])
