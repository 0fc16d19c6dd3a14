"""The draw of samples: exact numbers, no repetition, no favourites, the same for any split of the batch.

Shapes: ``B`` images, ``A`` candidates of an image.
"""

import math

import pytest
import torch
from torch import Tensor

from detection.model.sampling import mix, random_keys, sample


def draws(
    seed: int = 0, stream: int = 1, first: int = 0, images: int = 4000, count: int = 200, drawn: int = 20
) -> Tensor:
    """(images, count) bool: which candidates are drawn at consecutive positions when all are negatives."""
    keys = random_keys(seed, stream, torch.arange(first, first + images), count)
    everything = torch.ones(images, count, dtype=torch.bool)
    chosen = sample(~everything, everything, keys, drawn, drawn // 2)
    assert chosen.is_sampled.all() and not chosen.is_positive.any()
    return torch.zeros_like(everything).scatter(1, chosen.index, True)


def test_mix_reproduces_published_hashes() -> None:
    # MurmurHash3_x86_32 of the empty string is the finalizer of its seed; its published test vectors.
    seeds = torch.tensor([0, 1, 0xFFFFFFFF])
    assert mix(seeds).tolist() == [0, 0x514E28B7, 0x81F16F39]


def test_keys_are_distinct_and_within_range() -> None:
    positions = torch.tensor([0, 1, 2, 2**31 - 1, 2**32, 2**40 + 3])
    keys = random_keys(3, 2, positions, 30000)
    assert keys.dtype == torch.int64 and keys.shape == (6, 30000)
    assert keys.min() >= 0 and keys.max() < 2**56
    assert torch.equal(keys % 2**24, torch.arange(30000).expand(6, -1))  # the index settles equal hashes
    assert all(len(row.unique()) == 30000 for row in keys)


def slow_sample(
    positive: list[bool], negative: list[bool], keys: list[int], samples: int, limit: int
) -> list[list[int]]:
    """The positives and the negatives of one image, each by ascending key."""
    order = sorted(range(len(keys)), key=lambda place: keys[place])
    drawn = [place for place in order if positive[place]][:limit]
    return [drawn, [place for place in order if negative[place]][: samples - len(drawn)]]


@pytest.mark.parametrize(("samples", "limit"), [(16, 8), (16, 4), (16, 16), (200, 100), (4, 0)])
def test_equals_sorting_by_key(samples: int, limit: int) -> None:
    generator = torch.Generator().manual_seed(samples)
    chance = torch.tensor([0.0, 0.02, 0.3, 1.0, 0.5]).view(-1, 1)  # of a positive
    positive = torch.rand(5, 60, generator=generator) < chance
    negative = ~positive & (torch.rand(5, 60, generator=generator) < 0.6)
    negative[4] = False
    keys = random_keys(1, 1, torch.arange(5), 60)
    found = sample(positive, negative, keys, samples, limit)
    assert found.index.shape == (5, min(samples, 60))
    for image in range(5):
        row = [part[image].tolist() for part in (positive, negative, keys)]
        drawn, fill = slow_sample(*row, samples, limit)
        total = len(drawn) + len(fill)
        assert found.index[image, :total].tolist() == drawn + fill
        assert found.is_positive[image].sum() == len(drawn) and found.is_positive[image, : len(drawn)].all()
        assert found.is_sampled[image].sum() == total and found.is_sampled[image, :total].all()


@pytest.mark.parametrize(("seed", "first"), [(0, 0), (1, 0), (0, 10**6), (12345, 2**33)])
def test_every_candidate_is_drawn_equally_often(seed: int, first: int) -> None:
    images, count, drawn = 4000, 200, 20
    often = draws(seed, 1, first).sum(dim=0).double()
    # A candidate is drawn Binomial(n=4000, p=0.1) times; any two have covariance -n p (1-p) / (A-1). So
    # (A-1)/A * sum (often - n p)^2 / (n p (1-p)) follows chi-square with A-1 = 199 degrees of freedom: mean 199,
    # deviation sqrt(2 * 199) = 20. Five deviations either way; too even a draw would be no random draw either.
    share = drawn / count
    statistic = ((often - images * share) ** 2).sum() / (images * share * (1 - share)) * (count - 1) / count
    assert abs(statistic - 199) < 5 * math.sqrt(2 * 199)


@pytest.mark.parametrize("other", ["position", "seed", "stream"])
def test_other_seed_stream_or_position_is_an_independent_draw(other: str) -> None:
    change = {"position": {"first": 1}, "seed": {"seed": 1}, "stream": {"stream": 2}}[other]
    shared = (draws() & draws(**change)).sum(dim=1).double()
    # Two independent draws of 20 of 200 share a hypergeometric number: mean 20 * 0.1 = 2, variance
    # 20 * 0.1 * 0.9 * 180/199 = 1.628. The mean over 4000 images deviates by sqrt(1.628 / 4000) = 0.0202.
    assert abs(shared.mean() - 2) < 5 * math.sqrt(1.628 / 4000)
    assert abs(shared.var() - 1.628) < 0.2  # deviation of a variance, about 1.628 * sqrt(2 / 4000) = 0.036


def test_positions_beyond_32_bits_differ() -> None:
    near, far = random_keys(0, 1, torch.tensor([7, 7 + 2**32]), 1000)
    assert not torch.equal(near.argsort(), far.argsort())


def test_positions_carry_the_draw_when_the_batch_is_split() -> None:
    positions = torch.tensor([40, 41, 42, 43, 7])
    whole = random_keys(2, 1, positions, 500)
    assert torch.equal(whole, torch.cat([random_keys(2, 1, part, 500) for part in positions.split([2, 3])]))
    assert torch.equal(whole.flip(0), random_keys(2, 1, positions.flip(0), 500))
    # More candidates in the padding leave the keys of the others as they are.
    assert torch.equal(whole, random_keys(2, 1, positions, 800)[:, :500])
