"""Score a trained localizer, or an ensemble, on the set data.val: with the class of each image given, or guessed."""

from argparse import Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detection.command_line import CHECKPOINTS, parse_over_checkpoint, run_tool
from detection.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from detection.data.dataset import Annotations
    from detection.localization.locate import Located, Locator

ARGUMENTS = {
    **CHECKPOINTS,
    "--guesses": {
        "default": "",
        "metavar": "FILE",
        "help": "Guessed classes, five a line (ids or synsets), best first; none: the class is given",
    },
    "--classifier": {"default": "", "metavar": "NAME", "help": "Guess with a torchvision classifier, as resnet101"},
    "--classifier_weights": {
        "default": "imagenet1k_v1",
        "metavar": "TEXT",
        "help": "Its weights: a torchvision name, or a file",
    },
    "--classifier_views": {
        "default": "10crop",
        "choices": ["10crop", "single"],
        "help": "What it looks at: ten crops of an image, or its centre",
    },
}
GROUPS = (
    *(f"data.{name}" for name in ("format", "root", "train", "val", "classes", "on_error", "ids", "blacklist")),
    *("data.workers", "test.batch_size", "loc.test", "loc.test_scales", "loc.test_crop_from", "loc.first_stage"),
    *("loc.proposals", "device", "compile", "output", "train.precision", "train.channels_last"),
)

CLASSIFIED_AT_ONCE = 16
"""Images, unless test.batch_size is given."""


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    given, settings = parse_over_checkpoint("eval_loc.py", __doc__, argv, ARGUMENTS, GROUPS)
    if given.guesses and given.classifier:
        raise UserError("--guesses and --classifier both guess the classes; give one of them")
    from detection import distributed
    from detection.inference.devices import choose_device

    distributed.init_from_environment(choose_device(settings.get("device", "auto")))
    try:
        evaluate(given, settings)
    finally:
        distributed.shutdown()


def evaluate(given: Namespace, settings: dict[str, Any]) -> None:
    """Locate on all processes; score, write and print on the main one."""
    import dataclasses

    import numpy as np

    from detection import checkpoint, distributed
    from detection.console import progress_bar
    from detection.files import require_writable, unused
    from detection.localization.load import load_locator
    from detection.localization.single import image_labels
    from detection.localization.val_set import read_val

    paths = given.checkpoint
    beside = Path("runs") / "ensemble" if len(paths) > 1 else checkpoint.resolve(paths[0]).parent / "eval"
    folder = require_writable(Path(settings.get("output") or unused(beside)))
    locator = load_locator(paths, settings.get("device", "auto"), settings)
    data = dataclasses.replace(locator.config.data, classes=locator.class_names)
    annotations, sentences = read_val(data, pictures=True)
    for sentence in sentences if distributed.is_main() else ():
        print(sentence)
    own = image_labels(annotations)[:, None]
    guessed = guessed_labels(given, settings, locator, annotations)
    beside = np.where((guessed == own).any(axis=1, keepdims=True), 0, own)  # the own class is asked too, but once
    with progress_bar("locating", is_shown=distributed.is_main()) as show:
        located = locator.locate(annotations, np.hstack((guessed, beside)), show)
    if distributed.is_main():
        keep(folder, given, settings, (annotations, guessed if guessed.size else own, located))
        columns = np.hstack((guessed, own)) == own
        boxes = located.boxes[np.arange(len(own)), columns.argmax(axis=1)]
        show_scores(folder, locator, annotations, (guessed, located, boxes))


def guessed_labels(
    given: Namespace, settings: dict[str, Any], locator: "Locator", annotations: "Annotations"
) -> "np.ndarray":
    """(I, 5) labels of a file or of a classifier; (I, 0) where the class is given."""
    import numpy as np

    from detection import distributed
    from detection.console import progress_bar
    from detection.localization.classify import guess
    from detection.localization.guess_files import read_labels

    if given.guesses:
        return read_labels(given.guesses, annotations)
    if not given.classifier:
        return np.zeros((len(annotations), 0), np.int64)
    with progress_bar("guessing", is_shown=distributed.is_main()) as show:
        name, weights, views = given.classifier, given.classifier_weights, given.classifier_views
        size = settings.get("test", {}).get("batch_size", CLASSIFIED_AT_ONCE)
        workers = locator.config.data.workers
        return guess(annotations, name, weights, views, locator.device, show, batch_size=size, workers=workers)


def keep(
    folder: Path,
    given: Namespace,
    settings: dict[str, Any],
    results: "tuple[Annotations, np.ndarray, Located]",
) -> None:
    """The guesses in ILSVRC's form, pictures, and what was asked for."""
    from detection.files import replacing
    from detection.inspection.draw import save_picture
    from detection.localization.guess_files import write_official
    from detection.localization.locate import Located
    from detection.localization.pictures import sheet
    from detection.localization.rule import Guesses

    annotations, labels, located = results
    first = Located(located.boxes[:, : labels.shape[1]], located.scores[:, : labels.shape[1]])
    write_official(folder / "localization.txt", Guesses(labels, first.boxes), annotations)
    save_picture(folder / "predictions.png", sheet(annotations, labels, first))
    with replacing(folder / "config.yaml") as file:
        asked = yaml.safe_dump(settings, sort_keys=False)
        words = [f"--checkpoint {' '.join(given.checkpoint)}"]
        words += [f"--guesses {given.guesses}"] if given.guesses else []
        if given.classifier:
            words.append(f"--classifier {given.classifier} --classifier_weights {given.classifier_weights}")
            words.append(f"--classifier_views {given.classifier_views}")
        file.write_text(f"# eval_loc.py {' '.join(words)}\n{asked}")


def show_scores(
    folder: Path, locator: "Locator", annotations: "Annotations", results: "tuple[np.ndarray, Located, np.ndarray]"
) -> None:
    """Print the errors, and write them unrounded.

    Args:
        results: guessed labels, what was located, and the box (I, 4) of each image's own class.
    """
    from detection.console import Console
    from detection.files import write_json
    from detection.localization.rule import Guesses, counted, localization_scores
    from detection.localization.tables import counts, given_errors, score_record, score_table
    from detection.localization.val_set import which_ids

    guessed, located, boxes = results
    of_class = given_errors(boxes, annotations)
    guesses = Guesses(guessed, located.boxes[:, :-1])
    scores = localization_scores(guesses, annotations) if guessed.size else None
    Console().print(score_table(of_class, scores))
    shares = counts(scores) if scores else {"images": int(counted(annotations).sum())}
    write_json(folder / "metrics.json", {**score_record(of_class, scores), **shares})
    print(f"labels in localization.txt: {which_ids(locator.config.data, annotations)}")
    print(f"localization.txt, metrics.json, predictions.png are in {folder}")


if __name__ == "__main__":
    run_tool(main)
