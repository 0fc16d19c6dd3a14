import os
import socket
from types import SimpleNamespace

import pytest
import torch
from torch import multiprocessing

from detection import distributed
from detection.errors import UserError


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def two_processes(rank, port, folder):
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    device = distributed.init_from_environment(torch.device("cpu"))
    own = torch.tensor([1.0, 10.0], requires_grad=True) * (rank + 1)
    result = {
        "device": str(device),
        "place": (distributed.rank(), distributed.world_size(), distributed.is_main()),
        "sum": distributed.sum_over_processes(own).tolist(),
        "own": own.tolist(),
        "max": distributed.max_over_processes((608 + 32 * rank, 1024 - 64 * rank)),
        "parts": distributed.gather_objects({"rank": rank, "items": list(range(rank * 3))}),
        "word": distributed.broadcast_object(f"from {rank}"),
    }
    distributed.barrier()
    distributed.shutdown()
    result["after"] = (distributed.rank(), distributed.world_size())
    torch.save(result, os.path.join(folder, f"{rank}.pt"))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each of two real processes got."""
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(two_processes, (free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt") for rank in range(2)]


def test_each_process_knows_its_place(results):
    assert [result["place"] for result in results] == [(0, 2, True), (1, 2, False)]
    assert [result["device"] for result in results] == ["cpu", "cpu"]
    assert [result["after"] for result in results] == [(0, 1), (0, 1)]


def test_sum_is_the_same_everywhere_and_leaves_the_parts(results):
    assert [result["sum"] for result in results] == [[3.0, 30.0], [3.0, 30.0]]
    assert [result["own"] for result in results] == [[1.0, 10.0], [2.0, 20.0]]


def test_largest_values_are_taken_one_by_one(results):
    assert [result["max"] for result in results] == [(640, 1024), (640, 1024)]


def test_objects_arrive_in_the_order_of_ranks(results):
    expected = [{"rank": 0, "items": []}, {"rank": 1, "items": [0, 1, 2]}]
    assert [result["parts"] for result in results] == [expected, expected]
    assert [result["word"] for result in results] == ["from 0", "from 0"]


def test_one_process_needs_no_group(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert distributed.init_from_environment(torch.device("cpu")) == torch.device("cpu")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    total = distributed.sum_over_processes(torch.ones(2, requires_grad=True))
    assert total.tolist() == [1.0, 1.0]
    assert not total.requires_grad
    assert distributed.max_over_processes((3, 4)) == (3, 4)
    assert distributed.gather_objects("x") == ["x"]
    assert distributed.broadcast_object("x") == "x"
    distributed.barrier()
    distributed.shutdown()


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch, "cuda", SimpleNamespace(device_count=lambda: 2))
    with pytest.raises(UserError, match="process 3 has no GPU: this machine has 2; use --nproc_per_node 2"):
        distributed.init_from_environment(torch.device("cuda"))
