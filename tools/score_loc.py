"""Score a file of guessed labels and boxes, from any software, by ILSVRC's localization rule."""

from pathlib import Path

from detection.command_line import parse_for, run_tool

ARGUMENTS = {
    "--guesses": {
        "required": True,
        "metavar": "FILE",
        "help": "A line an image, in the order of the file names: `label xmin ymin xmax ymax` up to five times",
    },
    "--json": {"default": "", "metavar": "FILE", "help": "Write every number there, unrounded"},
}
GROUPS = tuple(f"data.{name}" for name in ("format", "root", "train", "val", "classes", "on_error", "ids", "blacklist"))


def main(argv: list[str]) -> None:
    """Read, score, print; then write what was asked for."""
    given, config = parse_for("score_loc.py", __doc__, argv, ARGUMENTS, GROUPS)
    from detection.console import Console
    from detection.files import require_writable, write_json
    from detection.localization.guess_files import read_official
    from detection.localization.rule import localization_scores
    from detection.localization.tables import AMONG, STRICT_IOU, class_errors, counts, score_record, score_table
    from detection.localization.val_set import read_val, which_ids

    if given.json:
        require_writable(Path(given.json).parent)
    annotations, sentences = read_val(config.data, pictures=False)
    for sentence in sentences:
        print(sentence)
    guesses = read_official(given.guesses, annotations)
    scores, strict = (localization_scores(guesses, annotations, iou) for iou in (0.5, STRICT_IOU))
    of_class = class_errors(AMONG, scores.given, strict.given)
    Console().print(score_table(of_class, scores))
    ids = which_ids(config.data, annotations)
    print(f"label ids: {ids}")
    if given.json:
        data = {"format": config.data.format, "root": config.data.root, "set": config.data.val, "label ids": ids}
        write_json(Path(given.json), {"data": data, **counts(scores), "errors": score_record(of_class, scores)})
        print(f"every number, unrounded, is in {given.json}")


if __name__ == "__main__":
    run_tool(main)
