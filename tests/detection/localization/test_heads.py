"""The class layers compute rows of one large convolution, and train no others.

Shapes: ``B`` images, ``K`` classes, ``n`` classes asked for, ``C`` channels, ``a`` anchors at a place.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from detection.localization.heads import ClassLayers

B, K, C, a, H, W = 3, 6, 5, 4, 2, 3
LABELS = torch.tensor([[1, 6], [3, 3], [2, 5]])


def layers(**changes: bool) -> ClassLayers:
    torch.manual_seed(0)
    built = ClassLayers(C, K, a, **changes).double()
    for parameter in built.parameters():
        torch.nn.init.normal_(parameter)
    return built


def features(*shape: int) -> Tensor:
    return torch.randn(B, C, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_rows_of_a_full_convolution_with_all_classes() -> None:
    built, maps = layers(), features(H, W)
    logits, deltas = built(maps, LABELS)
    assert logits.shape == (B, 2, H * W * a) and deltas.shape == (B, 2, H * W * a, 4)
    full = F.conv2d(maps, built.scores.weight.flatten(0, 1)[..., None, None], built.scores.bias.flatten())
    offsets = F.conv2d(maps, built.offsets.weight.flatten(0, 1)[..., None, None], built.offsets.bias.flatten())
    for image in range(B):
        for asked in range(2):
            for place in range(H * W * a):
                row, column, anchor = place // (W * a), place // a % W, place % a
                channel = int(LABELS[image, asked] - 1) * a + anchor
                torch.testing.assert_close(logits[image, asked, place], full[image, channel, row, column])
                expected = offsets[image, 4 * channel : 4 * channel + 4, row, column]
                torch.testing.assert_close(deltas[image, asked, place], expected)


def test_a_vector_is_a_map_of_one_place() -> None:
    built, vectors = layers(), features()
    for given, expected in zip(built(vectors, LABELS), built(vectors[..., None, None], LABELS), strict=True):
        assert torch.equal(given, expected)


def test_only_the_rows_asked_for_have_a_gradient() -> None:
    built = layers()
    logits, deltas = built(features(H, W), LABELS[:, :1])  # classes 1, 3 and 2
    (logits.sum() + deltas.sum()).backward()
    for parameter in built.parameters():
        rows = parameter.grad.flatten(1).abs().sum(dim=1)
        assert (rows > 0).tolist() == [True, True, True, False, False, False]
    counts = built.scores.bias.grad[:3].tolist()
    assert counts == [[H * W] * a] * 3


def test_a_class_asked_for_by_two_images_learns_from_both() -> None:
    built = layers()
    built(features(H, W), torch.full((B, 1), 4))[0].sum().backward()
    assert built.scores.bias.grad[3].tolist() == [B * H * W] * a


def test_no_class_is_no_error() -> None:
    logits, _ = layers()(features(H, W), torch.zeros(B, 2, dtype=torch.int64))
    assert logits.isfinite().all()


def test_without_scores_every_logit_is_0() -> None:
    built, whole = layers(scored=False), layers()
    whole.offsets.load_state_dict(built.offsets.state_dict())
    logits, deltas = built(features(), LABELS)
    assert logits.shape == (B, 2, a) and not logits.any()
    assert torch.equal(deltas, whole(features(), LABELS)[1])
    assert [name for name, _ in built.named_parameters()] == ["offsets.weight", "offsets.bias"]


def test_first_weights_are_faster_rcnns() -> None:
    torch.manual_seed(0)
    built = ClassLayers(256, 20, 9)
    assert float(built.offsets.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert float(built.scores.weight.detach().std()) == pytest.approx(0.01, rel=0.02)
    assert not built.scores.bias.any() and not built.offsets.bias.any()
