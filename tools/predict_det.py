"""Find objects in pictures: draws boxes with class names and scores, and writes them as COCO results."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detection.command_line import CHECKPOINTS, parse_over_checkpoint, run_tool
from detection.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from detection.inference.predictor import Prediction

ARGUMENTS = {
    **CHECKPOINTS,
    "--input": {"required": True, "nargs": "+", "metavar": "PATH", "help": "pictures, or folders of pictures"},
    "--draw_above": {
        "type": float,
        "default": 0.5,
        "metavar": "SCORE",
        "help": "Lowest score that is drawn; detections.json holds everything above test.score_threshold",
    },
}
GROUPS = (
    *("data.test_min_size", "data.test_max_size", "test", "device", "compile", "output"),
    *("train.precision", "train.channels_last"),
)
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
"""Files of a folder that are taken for pictures."""


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    given, settings = parse_over_checkpoint("predict_det.py", __doc__, argv, ARGUMENTS, GROUPS)
    pictures = find_pictures([Path(path) for path in given.input])
    from detection import load_detector
    from detection.files import unused
    from detection.inference.ensemble import introduce

    folder = Path(settings.get("output") or unused(Path("runs") / "predictions"))
    for name, file in pictures.items():
        if target(folder, name).resolve() == file.resolve():
            raise UserError(f"--output {folder}: {file} would be overwritten; name another folder")
    predictor = load_detector(given.checkpoint, settings.get("device", "auto"), settings)
    for sentence in introduce(predictor.members):
        print(sentence)
    failures = predict(predictor, pictures, folder, given.draw_above)
    print(f"{len(pictures) - len(failures)} pictures with boxes and detections.json are in {folder}")
    if failures:
        raise UserError(f"{len(failures)} pictures could not be read: {'; '.join(failures)}")


def find_pictures(inputs: list[Path]) -> dict[str, Path]:
    """Name under `--output` and file of each picture; those of a folder keep their place in it.

    Raises:
        UserError: a path does not exist, or a folder holds no picture.
    """
    pictures: dict[str, Path] = {}
    for path in inputs:
        if not path.exists():
            raise UserError(f"--input {path}: there is no such picture or folder")
        files = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES) if path.is_dir() else [path]
        if not files:
            raise UserError(f"--input {path}: the folder holds no picture ({', '.join(sorted(SUFFIXES))})")
        for file in files:
            name = str(file.relative_to(path)) if path.is_dir() else file.name
            if name in pictures:
                raise UserError(f"--input {file}: another picture is called {name} too; give the folders one by one")
            pictures[name] = file
    return pictures


def target(folder: Path, name: str) -> Path:
    """Where the picture `name` is drawn to: JPEG and PNG keep their names, others become PNG."""
    return folder / (name if name.lower().endswith((".jpg", ".jpeg", ".png")) else f"{name}.png")


def predict(predictor: Any, pictures: dict[str, Path], folder: Path, draw_above: float) -> list[str]:
    """Draw each picture's objects into `folder` and write all of them; returns what could not be read and why.

    The next pictures are read, and the last ones drawn, while the detector is at work.
    """
    import numpy as np
    from rich.progress import track

    from detection.ahead import map_ahead
    from detection.data.dataset import without_objects
    from detection.evaluation.detections import Detections

    parts, names, sizes, failures = [], [], [], []

    def predicted() -> Iterator[tuple[Path, np.ndarray, Any]]:
        for name, image in zip(pictures, map_ahead(read, pictures.values()), strict=True):
            if isinstance(image, UserError):
                failures.append(str(image))
                continue
            found = predictor(image)
            parts.append(Detections(np.full(len(found), len(names)), found.labels, found.scores, found.boxes))
            names.append(name)
            sizes.append(image.shape[:2])
            yield target(folder, name), image, found

    drawn = map_ahead(lambda each: draw(*each, draw_above), predicted())
    for _ in track(drawn, description="predicting", total=len(pictures), transient=True):
        pass
    files = [str(pictures[name]) for name in names]
    images = without_objects(predictor.class_names, names, files, sizes, predictor.category_ids)
    Detections.concatenate(parts).write_coco(folder / "detections.json", images)
    return failures


def read(file: Path) -> "np.ndarray | UserError":
    """The picture, upright, or why there is none."""
    from detection.inference.predictor import as_array

    try:
        return as_array(file)
    except UserError as error:
        return error


def draw(path: Path, image: "np.ndarray", found: "Prediction", draw_above: float) -> None:
    """Write the picture with the boxes that score at least `draw_above`."""
    from detection.inspection.draw import draw_boxes, save_picture

    shown = found.scores >= draw_above
    boxes, labels, scores = found.boxes[shown], found.labels[shown], found.scores[shown]
    save_picture(path, draw_boxes(image, boxes, labels, scores, class_names=found.class_names))


if __name__ == "__main__":
    run_tool(main)
