"""Every image of a set once, whatever the batches and the processes."""

import numpy as np
import pytest

from detection import distributed
from detection.config import from_dict, overlay, to_dict
from detection.localization.locate import Locator, LocMember
from detection.localization.over_set import gather


def test_batches_make_no_difference(data, labels, locator, same):
    run = locator()
    expected = run.locate(data, labels, lambda share: None)
    config = from_dict(overlay(to_dict(run.config), {"test": {"batch_size": 3}}))
    three = Locator([LocMember(run.members[0].localizer, config)], run.class_names, run.device)
    shares = []
    same(three.locate(data, labels, shares.append), expected)
    assert len(shares) < 8


@pytest.mark.parametrize("processes", [3, 11])
def test_several_processes_give_what_one_gives(data, labels, locator, same, monkeypatch, processes):
    run = locator()
    expected = run.locate(data, labels, lambda share: None)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    gathered = []

    def keep(part):
        gathered.append(part)
        return gathered

    monkeypatch.setattr(distributed, "gather_objects", keep)
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        if rank < processes - 1:
            with pytest.raises(RuntimeError, match="exactly once"):
                run.locate(data, labels, lambda share: None)
    same(run.locate(data, labels, lambda share: None), expected, abs=0)
    assert sorted(index for _, seen in gathered for index in seen) == list(range(7))  # nothing is asked of one


@pytest.mark.parametrize("seen", [[0, 1], [0, 1, 1], [0, 1, 2, 2], []])
def test_an_image_that_is_missing_or_computed_twice_is_a_fault(seen):
    with pytest.raises(RuntimeError, match="exactly once"):
        gather([(np.zeros(len(seen)),)] if seen else [], seen, 3)
