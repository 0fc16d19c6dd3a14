"""Time and memory of reading COCO annotations: ``python tests/measure/read_coco.py ROOT [SET]`` (Linux).

Prints the seconds of both passes (class names, annotations), the peak, what stays resident, and how much memory of its
own a forked worker has before and after it has touched the annotations of every image.
"""

import os
import re
import sys
import time
from pathlib import Path

from detection.config import DataSettings
from detection.data import class_names, read_annotations
from detection.data.dataset import Annotations


def main(root: str, name: str = "val") -> None:
    settings = DataSettings(format="coco", root=root, train=name, val=name, on_error="drop")
    start = time.perf_counter()
    names = class_names(settings)
    middle = time.perf_counter()
    data = read_annotations(DataSettings(**{**vars(settings), "classes": names}), name)
    print(f"class names {middle - start:.1f} s, annotations {time.perf_counter() - middle:.1f} s")
    print(f"{len(data)} images, {len(data.boxes)} boxes, left out: {[str(fault) for fault in data.dropped]}")
    print(f"peak {status('VmHWM')} MB, resident after loading {status('VmRSS')} MB")
    sys.stdout.flush()
    child = os.fork()
    if not child:
        before = own_memory()
        touch(data)
        print(f"forked worker's own memory: {before:.1f} MB before, {own_memory():.1f} MB after", flush=True)
        os._exit(0)
    os.waitpid(child, 0)


def touch(data: Annotations) -> float:
    """Read everything about every image, as a worker does in an epoch."""
    total = 0.0
    for index in range(len(data)):
        rows = data.objects(index)
        total += data.boxes[rows].sum() + data.labels[rows].sum() + data.ignore[rows].sum()
        total += len(str(data.image_paths[index])) + data.sizes[index].sum()
    return total


def status(name: str) -> int:
    """A line of the process's status, in MB."""
    return int(re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())[1]) // 1024


def own_memory() -> float:
    """MB that are shared with no other process."""
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(map(int, re.findall(r"Private_(?:Clean|Dirty):\s+(\d+)", text))) / 1024


if __name__ == "__main__":
    main(*sys.argv[1:])
