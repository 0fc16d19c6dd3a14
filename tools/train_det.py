"""Train a detector, score it and draw what it finds; without a recipe, on a small built-in data set."""

from detection.command_line import explicit_settings, parse, run_tool


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    config, explicit = parse("train_det.py", __doc__, argv), explicit_settings(argv)
    from detection.training.run import train

    train(config, explicit)


if __name__ == "__main__":
    run_tool(main)
