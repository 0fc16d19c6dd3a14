"""Names in pictures of guesses."""

from detection.localization.pictures import short_name


def test_names_are_short_enough_for_a_label():
    long = "n01644900 tailed frog, bell toad, ribbed toad, tailed toad, Ascaphus trui"
    assert short_name(long) == "tailed frog"
    assert short_name("n02066245 grey whale, gray whale, devilfish") == "grey whale"
    assert short_name("potted plant") == "potted plant"
