"""Train a localizer, which finds the box of a given class, and score it; without a recipe, on a small built-in set."""

from detection.command_line import LOC_QUICKSTART, LOCALIZATION, explicit_settings, parse, run_tool


def main(argv: list[str]) -> None:
    """Parse first: torch takes seconds to import."""
    config, explicit = parse("train_loc.py", __doc__, argv, LOCALIZATION, LOC_QUICKSTART), explicit_settings(argv)
    from detection.localization.run import train

    train(config, explicit)


if __name__ == "__main__":
    run_tool(main)
