"""Order, reach and mistakes of work done ahead."""

import threading

import pytest

from detection.ahead import AHEAD, map_ahead


def test_results_come_in_order_from_other_threads() -> None:
    here = threading.get_ident()
    results = list(map_ahead(lambda item: (item * item, threading.get_ident() != here), range(30)))
    assert results == [(item * item, True) for item in range(30)]


def test_no_more_is_drawn_than_may_wait() -> None:
    drawn = []
    results = map_ahead(lambda item: item, (drawn.append(item) or item for item in range(30)))
    assert next(results) == 0 and len(drawn) == AHEAD + 1
    results.close()
    assert len(drawn) == AHEAD + 1


def test_a_mistake_arrives_in_its_turn() -> None:
    results = map_ahead(lambda item: 1 // (2 - item), range(9))
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(ZeroDivisionError):
        next(results)
