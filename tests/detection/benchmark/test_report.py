"""Rows as they are shown and as they are written."""

import json

from detection.benchmark.agreement import Check
from detection.benchmark.report import Measured, Row, details_table, machine, record, table
from detection.benchmark.timing import Timing

TIMING = Timing({"ours": [0.5, 0.5, 0.5], "peer": [1.0, 1.5, 2.0]})


def test_the_ratio_comes_last_with_its_quartiles() -> None:
    cells = Row("predict", "a case", TIMING).cells()
    assert cells == ["predict", "a case", "500 ms\n500 ms to 500 ms", "1.5 s\n1.25 s to 1.75 s", "3.00\n2.50 to 3.50"]


def test_speeds_of_images() -> None:
    assert Row("loader", "", TIMING, images=30).cells()[2:4] == ["60 images/s\n60 to 60", "20 images/s\n17.1 to 24"]


def test_the_record_holds_the_ratio_under_its_name_and_can_be_written() -> None:
    measured = Measured(
        [Row("predict", "a case", TIMING)], [Check("features", "the same")], {"ours": {"trunk": "1 ms"}}
    )
    content = json.loads(json.dumps({**record([measured]), "machine": machine()}))
    row = content["rows"][0]
    assert row["ratio"] == 3.0 and row["median_seconds"] == {"ours": 0.5, "peer": 1.5}
    assert row["seconds"]["peer"] == [1.0, 1.5, 2.0]
    assert content["checks"] == ["predict: features: the same"]
    assert content["details"] == {"predict": {"ours": {"trunk": "1 ms"}}}
    assert {"date", "cores", "torch", "torchvision"} <= set(content["machine"])


def test_sides_with_other_names_are_called_by_them() -> None:
    timing = Timing({"10 images": [0.5], "30 images": [1.0]})
    shown = Row("growth", "", timing, "10 images", "30 images").cells()[2:4]
    assert shown == ["10 images: 500 ms\n500 ms to 500 ms", "30 images: 1 s\n1 s to 1 s"]


def test_tables_have_a_row_for_each_comparison_and_detail() -> None:
    row = Row("predict", "a case", TIMING)
    details = {"ours": {"trunk": "1 ms"}, "peer": {"trunk": "2 ms", "peak memory": "3 MiB"}}
    assert table([row, row]).row_count == 2
    assert details_table(Measured([row], [], details)).row_count == 2
