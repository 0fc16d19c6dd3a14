"""Short runs, and programs of several processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from detection.config import Config, from_dict, overlay

Statuses = list[int | None]
Train = Callable[[Config, dict[str, Any]], Path]


@pytest.fixture
def starter(tmp_path: Path) -> Iterator[Callable[[Train, dict[str, Any]], Callable[..., Path]]]:
    """Makes, of what trains and a run's settings, what starts runs and removes their folders at the end of the test.

    It takes the folder's name, then groups of settings; with ``resume`` only those count, as on the command line.
    """
    folders: list[Path] = []

    def of(train: Train, config: dict[str, Any]) -> Callable[..., Path]:
        def run(name: str, **given: Any) -> Path:
            folders.append(tmp_path / name)
            if "resume" not in given:
                given = overlay(config, {"output": str(folders[-1]), **given})
            return train(from_dict(given), given)

        return run

    yield of
    torch.use_deterministic_algorithms(False)
    for folder in folders:  # a checkpoint of a detector has 200 MB
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[str]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="session")
def launch() -> Callable[..., tuple[Statuses, list[str]]]:
    """Runs a program in two processes, as torchrun does; its words are MODE SETTINGS FOLDER WORD.

    PORTS names a port for each group of processes that the program makes after another.
    """

    def run(
        program: str, mode: str, settings: dict[str, Any], folder: Path, word: str, seconds: float = 180
    ) -> tuple[Statuses, list[str]]:
        """The statuses (None: still running) and what was said."""
        (folder / "settings.json").write_text(json.dumps(settings))
        ports = _free_ports(4)
        common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": ports[0], "PORTS": " ".join(ports)}
        common |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
        command = [sys.executable, program, mode, str(folder / "settings.json"), str(folder), word]
        outputs = [folder / f"{rank}.txt" for rank in range(2)]
        processes = []
        for rank, output in enumerate(outputs):
            environment = {**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)}
            with open(output, "w") as file:
                processes.append(
                    subprocess.Popen(command, cwd=folder, env=environment, stdout=file, stderr=subprocess.STDOUT)
                )
        deadline = time.monotonic() + seconds
        while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
            time.sleep(0.1)
            if any(process.poll() not in (None, 0) for process in processes):
                deadline = min(deadline, time.monotonic() + 5)  # the other one waits for it in vain
        statuses = [process.poll() for process in processes]
        for process in processes:
            process.kill()
            process.wait()
        return statuses, [output.read_text() for output in outputs]

    return run
