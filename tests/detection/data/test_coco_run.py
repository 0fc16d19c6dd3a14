"""A run on data in COCO's format: ids of images and categories from the file to the predictions."""

import json
import runpy
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detection import checkpoint
from detection.config import from_dict
from detection.data.voc import read_voc
from detection.inference.predictor import load_detector
from detection.training.run import train

SHAPES, SHAPE_IDS = ("circle", "cross", "square", "triangle"), (5, 18, 44, 90)


@pytest.fixture
def coco_run(tiny_data: Path, tiny_config: dict[str, Any], tmp_path: Path) -> Iterator[Path]:
    """The folder of a run of one iteration on the tiny set, in COCO's format with ids that have gaps."""
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for name in ("train", "val"):
        data = read_voc(tiny_data, name, SHAPES)
        (root / name).symlink_to(tiny_data / "JPEGImages")
        images = [
            {"id": 1000 + int(own), "file_name": f"{own}.jpg", "width": columns, "height": rows}
            for own, (rows, columns) in zip(data.image_ids.tolist(), data.sizes.tolist(), strict=True)
        ]
        corners = zip(data.image_of_object.tolist(), data.labels.tolist(), data.boxes.tolist(), strict=True)
        objects = [
            {
                "id": number,
                "image_id": images[image]["id"],
                "category_id": SHAPE_IDS[label - 1],
                "bbox": [x1, y1, x2 - x1, y2 - y1],
            }
            for number, (image, label, (x1, y1, x2, y2)) in enumerate(corners)
        ]
        if name == "train":  # an image without a target: no step may take it
            images.append({**images[0], "id": 1, "file_name": "000014.jpg", "width": 128, "height": 160})
        categories = [{"id": own, "name": shape} for own, shape in zip(SHAPE_IDS, SHAPES, strict=True)]
        content = {"images": images, "annotations": objects, "categories": categories}
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    tiny_config["data"] |= {"format": "coco", "root": str(root), "empty": "drop"}
    tiny_config["train"]["iterations"] = 1
    tiny_config["test"]["score_threshold"] = 0.0
    tiny_config["output"] = str(root / "run")
    yield train(from_dict(tiny_config), tiny_config)
    shutil.rmtree(root)  # a checkpoint has 100 MB


def test_a_run_keeps_the_ids_from_the_file_to_the_predictions(
    coco_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the checkpoint, in the run's own detections, and in those of a picture that belongs to no data set."""
    assert checkpoint.load(coco_run / "best.pt")["category_ids"] == list(SHAPE_IDS)
    assert "without a target: 1, left out" in (coco_run / "log.txt").read_text()
    rows = json.loads((coco_run / "detections.json").read_text())
    assert {row["image_id"] for row in rows} <= set(range(1008, 1013))
    assert len({row["category_id"] for row in rows}) > 1 and {row["category_id"] for row in rows} <= set(SHAPE_IDS)
    Image.new("RGB", (64, 48), "red").save(tmp_path / "a.png")
    words = [f"--checkpoint={coco_run}", f"--input={tmp_path}/a.png", f"--output={tmp_path}/out", "--device=cpu"]
    monkeypatch.setattr(sys, "argv", ["predict_det.py", *words])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(Path(__file__).parents[3] / "tools" / "predict_det.py"), run_name="__main__")
    rows = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert end.value.code == 0 and rows and {row["category_id"] for row in rows} <= set(SHAPE_IDS)
    state = checkpoint.load(coco_run)
    del state["category_ids"]
    checkpoint.save(coco_run / "old.pt", state)  # as they were before there were ids
    assert load_detector(coco_run / "old.pt", "cpu").category_ids == ()
