"""Files in COCO's format: what is read, what is refused, and that ids come back as they were."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detection.config import DataSettings
from detection.data import class_names, read_annotations
from detection.data.coco import find_classes, read_coco
from detection.errors import UserError
from detection.evaluation.coco import coco_scores
from detection.evaluation.detections import Detections

COCO_IDS = [number for number in range(1, 91) if number not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]
"""The 80 ids of COCO: 1 to 90 with ten gaps."""
DOG, CAT = {"id": 18, "name": "dog"}, {"id": 17, "name": "cat"}

Write = Callable[..., Path]


def picture(number: int | str, **changes: Any) -> dict[str, Any]:
    """The entry of an image of 60 x 40 pixels."""
    return {"id": number, "file_name": f"{number}.jpg", "width": 60, "height": 40, **changes}


def thing(number: int, image: int | str, box: list[float], **changes: Any) -> dict[str, Any]:
    """The entry of an object, a dog with a polygon."""
    polygon = [[1.0, 2.0, 3.5, 4, 5, 6e0]]
    entry = {"id": number, "image_id": image, "category_id": 18, "bbox": box, "area": 5.5, "iscrowd": 0}
    return {**entry, "segmentation": polygon, **changes}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a set in the official layout: images listed in the file (unless `files` says otherwise), and the file."""

    def write(
        images: list[dict[str, Any]],
        annotations: list[dict[str, Any]] | None = None,
        categories: list[dict[str, Any]] | None = None,
        name: str = "train2017",
        files: list[str] | None = None,
        kind: str = "instances",
    ) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (tmp_path / "annotations").mkdir(exist_ok=True)
        for file in [image["file_name"] for image in images] if files is None else files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40)).save(folder / file)
        content = {
            "info": {"year": 2017},
            "images": images,
            "categories": [DOG, CAT] if categories is None else categories,
        }
        if annotations is not None:
            content["annotations"] = annotations
        (tmp_path / "annotations" / f"{kind}_{name}.json").write_text(json.dumps(content))
        return tmp_path

    return write


def file_of(root: Path) -> Path:
    return root / "annotations" / "instances_train2017.json"


# What is read


def test_boxes_flags_areas_and_order(write: Write) -> None:
    """Corners are x, y, x + w, y + h; images come by ascending id, an image's objects in the order of the file."""
    objects = [
        thing(1, 7, [1, 2, 10, 20], area=50.25),
        thing(2, 3, [0, 0, 60, 40], iscrowd=1, category_id=17),
        thing(3, 7, [0.5, 0.25, 3, 4]),
    ]
    del objects[2]["area"], objects[2]["id"], objects[2]["iscrowd"]
    data = read_coco(write([picture(7), picture(9), picture(3)], objects), "train2017")
    assert data.class_names == ("cat", "dog") and data.category_ids == (17, 18)
    assert data.image_ids.tolist() == ["3", "7", "9"] and data.sizes.tolist() == [[40, 60]] * 3
    assert data.offsets.tolist() == [0, 1, 3, 3]
    assert data.boxes.tolist() == [[0, 0, 60, 40], [1, 2, 11, 22], [0.5, 0.25, 3.5, 4.25]]
    assert data.labels.tolist() == [1, 2, 2] and data.ignore.tolist() == [True, False, False]
    assert data.areas.tolist() == [5.5, 50.25, 12] and data.boxes.dtype == np.float64
    assert data.annotated and data.dropped == () and Path(data.image_paths[0]).is_file()


def test_classes_are_chosen_and_ordered_and_keep_their_ids(write: Write) -> None:
    objects = [thing(1, 7, [1, 2, 10, 20]), thing(2, 7, [0, 0, 9, 9], category_id=17)]
    root = write([picture(7)], objects, [DOG, CAT, {"id": 2, "name": "bird"}])
    assert find_classes(root, ["train2017"]) == ("bird", "cat", "dog")
    data = read_coco(root, "train2017", ["dog", "bird"])
    assert data.labels.tolist() == [1] and data.category_ids == (18, 2) and data.dropped == ()
    unknown = read_coco(root, "train2017", ["dog", "unicorn"])
    assert unknown.category_ids == (18, 19)  # the next free number
    with pytest.raises(UserError, match="no category is called dgo, cta; its names are dog, cat, bird"):
        read_coco(root, "train2017", ["dgo", "cta"])


def test_80_classes_with_gaps_come_back_as_they_were(write: Write, tmp_path: Path) -> None:
    """Ids 1..90 with gaps are labels 1..80 inside, and are written again."""
    categories = [{"id": own, "name": f"class {own}"} for own in reversed(COCO_IDS)]
    objects = [thing(number, 7, [1, 2, 10, 20], category_id=own) for number, own in enumerate(COCO_IDS)]
    data = read_coco(write([picture(7)], objects, categories), "train2017")
    assert data.labels.tolist() == list(range(1, 81)) and data.category_ids == tuple(COCO_IDS)
    assert data.class_names[79] == "class 90"
    found = Detections(np.zeros(80, np.int64), data.labels, np.linspace(1, 0.1, 80), data.boxes)
    found.write_coco(tmp_path / "found.json", data)
    assert [row["category_id"] for row in json.loads((tmp_path / "found.json").read_text())] == COCO_IDS
    assert Detections.read_coco(tmp_path / "found.json", data).labels.tolist() == list(range(1, 81))


def test_ids_may_be_text(write: Write) -> None:
    root = write([picture("a"), picture("007"), picture("b/c")], [thing(1, "007", [1, 2, 10, 20])])
    data = read_coco(root, "train2017")
    assert data.image_ids.tolist() == ["007", "a", "b/c"] and data.offsets.tolist() == [0, 1, 1, 1]
    assert Path(data.image_paths[2]).is_file()


def test_a_set_without_annotations_is_not_annotated(write: Write) -> None:
    root = write([picture(7)], name="test2017")
    (root / "annotations" / "instances_test2017.json").rename(root / "annotations" / "image_info_test-dev2017.json")
    data = read_coco(root, "test-dev2017", ["cat", "dog"])
    assert not data.annotated and len(data) == 1 and data.boxes.shape == (0, 4)
    assert data.image_paths.tolist() == [str(root / "test2017" / "7.jpg")] and data.category_ids == (17, 18)
    assert read_coco(write([picture(8)], []), "train2017").annotated  # annotated, and nothing is there
    assert read_coco(write([picture(8)], None, []), "train2017", ["cat", "dog"]).category_ids == ()  # it does not say


def test_sets_of_2014_without_a_folder_of_their_name(write: Write) -> None:
    root = write([picture(7), picture(8)], [], name="val2014")
    for name, number in (("minival2014", 7), ("valminusminival2014", 8)):
        content = {"images": [picture(number)], "annotations": [], "categories": [DOG]}
        (root / "annotations" / f"instances_{name}.json").write_text(json.dumps(content))
    both = read_coco(root, "minival2014 + valminusminival2014")
    assert [Path(path).parent.name for path in both.image_paths] == ["val2014"] * 2
    with pytest.raises(UserError, match=r"minival2014\.json: names image .*7\.jpg, which .*val2014\.json has"):
        read_coco(root, "val2014+minival2014")
    with pytest.raises(UserError, match="8.jpg.*name each image of sets to be joined once"):
        read_coco(root, "valminusminival2014+valminusminival2014")


def test_any_file_and_unions_by_name(write: Write, tmp_path: Path) -> None:
    """Two files that number their categories differently are joined by name; the first one's ids are kept."""
    root = write([picture(7)], [thing(1, 7, [1, 2, 3, 4])])
    (tmp_path / "extra").mkdir()
    Image.new("RGB", (60, 40)).save(tmp_path / "extra" / "7.jpg")
    objects = [thing(1, 7, [1, 2, 3, 4], category_id=18), thing(2, 7, [1, 2, 3, 4], category_id=1)]
    categories = [{"id": 18, "name": "bird"}, {"id": 1, "name": "dog"}]
    content = {"images": [picture(7)], "annotations": objects, "categories": categories}
    (tmp_path / "more.json").write_text(json.dumps(content))
    for spec in ("extra=more.json", f"{tmp_path}/extra = {tmp_path}/more.json"):
        assert read_coco(root, spec).class_names == ("dog", "bird")
        data = read_coco(root, f"train2017+{spec}")
        assert data.class_names == ("cat", "dog", "bird") and data.labels.tolist() == [2, 3, 2]
        assert data.category_ids == (17, 18, 19)  # bird's own 18 is the dog's in the first file
    with pytest.raises(UserError, match="cannot be joined with annotated ones"):
        (tmp_path / "bare.json").write_text(json.dumps({"images": [picture(7)], "categories": categories}))
        read_coco(root, "train2017+extra=bare.json")


def test_the_format_is_known_to_the_tools(write: Write) -> None:
    root = write([picture(7)], [thing(1, 7, [1, 2, 3, 4])])
    write([picture(1)], [], [DOG, {"id": 90, "name": "zebra"}], name="val2017")
    settings = DataSettings(format="coco", root=str(root), train="train2017", val="val2017")
    assert class_names(settings) == ("cat", "dog", "zebra")
    train, val = read_annotations(settings, "train2017"), read_annotations(settings, "val2017")
    assert train.class_names == val.class_names == ("cat", "dog", "zebra")
    assert val.category_ids == (91, 18, 90) and train.labels.tolist() == [2]


# Faults of objects and images

FAULTS = [
    ({"bbox": [5, 6, 0, 3]}, "bbox [5, 6, 0, 3] has width 0"),
    ({"bbox": [5, 6, 3, -2]}, "bbox [5, 6, 3, -2] has height -2"),
    ({"bbox": [5, float("nan"), 3, 2]}, "bbox [5, none, 3, 2] has a value that is no number"),
    ({"bbox": [5, 6, float("-inf"), 2]}, "bbox [5, 6, none, 2] has a value that is no number"),
    ({"bbox": [5, 6, None, 2]}, "bbox [5, 6, none, 2] has a value that is no number"),
    ({"bbox": [-1.5, 6, 9, 9]}, "bbox [-1.5, 6, 9, 9] reaches more than one pixel out of the image of 60 x 40 pixels"),
    ({"bbox": [5, 6, 9, 36]}, "bbox [5, 6, 9, 36] reaches more than one pixel out of the image of 60 x 40 pixels"),
    ({"bbox": [60.2, 6, 0.5, 9]}, "bbox [60.2, 6, 0.5, 9] lies outside the image of 60 x 40 pixels"),
    ({"bbox": [5, -1, 9, 1]}, "bbox [5, -1, 9, 1] lies outside the image of 60 x 40 pixels"),
]


@pytest.mark.parametrize(("changes", "reason"), FAULTS)
def test_each_fault_of_a_box_is_found(changes: dict, reason: str, write: Write) -> None:
    root = write([picture(7)], [thing(1, 7, [1, 2, 10, 20]), {**thing(5, 7, [1, 1, 1, 1]), **changes}])
    with pytest.raises(UserError) as error:
        read_coco(root, "train2017")
    where = "annotations/instances_train2017.json: annotations[1] with id 5 (dog) of image 7"
    assert str(error.value).splitlines()[1:] == [f"  {where}: {reason}"]
    data = read_coco(root, "train2017", on_error="drop")
    assert data.boxes.tolist() == [[1, 2, 11, 22]] and len(data.dropped) == 1


def test_wrong_ids_are_found(write: Write) -> None:
    wrong = [
        thing(1, 7, [1, 2, 10, 20]),
        thing(2, 8, [1, 2, 10, 20]),
        thing(3, 7, [1, 2, 10, 20], category_id=333),
        thing(1, 7, [3, 3, 4, 4]),
        thing(4, 9, [1, 2, 10, 0], category_id=334),
    ]
    data = read_coco(write([picture(7)], wrong), "train2017", on_error="drop")
    assert data.boxes.tolist() == [[1, 2, 11, 22]]
    assert [(fault.object, fault.reason) for fault in data.dropped] == [
        ("annotations[1] with id 2 (dog) of image 8", "image_id 8 is not among the images"),
        ("annotations[2] with id 3 of image 7", "category_id 333 is not among the categories"),
        ("annotations[3] with id 1 (dog) of image 7", "id 1 is that of an earlier annotation too"),
        (
            "annotations[4] with id 4 of image 9",
            "image_id 9 is not among the images, category_id 334 is not among the categories, "
            "bbox [1, 2, 10, 0] has height 0",
        ),
    ]


def test_overhang_of_one_pixel_is_kept_as_in_the_file(write: Write) -> None:
    objects = [thing(1, 7, [-1, -0.5, 62, 41]), thing(2, 7, [0, 0, 61, 41], area=None)]
    data = read_coco(write([picture(7)], objects), "train2017")
    assert data.boxes.tolist() == [[-1, -0.5, 61, 40.5], [0, 0, 61, 41]] and data.areas.tolist() == [5.5, 61 * 41]
    assert data.cut_boxes().tolist() == [[0, 0, 60, 40]] * 2


def test_scores_of_overhanging_boxes_are_those_of_pycocotools_on_the_file(write: Write, tmp_path: Path) -> None:
    """Small boxes at the corners, up to a pixel outside, of which cutting would take a third."""
    rng = np.random.default_rng(1)
    objects, found = [], []
    for number in range(60):
        width, height = rng.integers(3, 9, 2).tolist()
        is_right = rng.random() < 0.5
        corner = [60.9 - width, 40.8 - height] if is_right else [-0.9, -0.8]
        objects.append(thing(number + 1, number % 30, [*corner, width, height], area=width * height))
        box = np.round(np.array([*corner, width, height]) + rng.normal(0, 0.5, 4), 2)
        found.append({"image_id": number % 30, "category_id": 18, "bbox": box.tolist(), "score": 1 - number / 100})
    root = write([picture(number) for number in range(30)], objects)
    (tmp_path / "found.json").write_text(json.dumps(found))
    data = read_coco(root, "train2017")
    ours = coco_scores(Detections.read_coco(tmp_path / "found.json", data), data).summary
    reference = COCO(str(file_of(root)))
    evaluation = COCOeval(reference, reference.loadRes(str(tmp_path / "found.json")), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    assert 0.2 < ours["COCO AP50"] < 0.99
    np.testing.assert_allclose(np.nan_to_num(list(ours.values()), nan=-1), evaluation.stats, atol=1e-12)


BAD_BOX = "is not x, y, width, height"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bbox": []}, f"bbox [] {BAD_BOX}"),
        ({"bbox": None}, "bbox is missing"),
        ({"bbox": [1, 2, 3]}, f"bbox [1, 2, 3] {BAD_BOX}"),
        ({"bbox": [1, 2, 3, 4, 5, 6]}, f"bbox [1, 2, 3, 4, 5, ...] {BAD_BOX}"),
        ({"bbox": "1 2 3 4"}, f"bbox '1 2 3 4' {BAD_BOX}"),
        ({"bbox": {"x": 1}}, f"bbox {{'x': 1}} {BAD_BOX}"),
        ({"bbox": [1, 2, "3", 4]}, "bbox [1, 2, '3', 4] has a value that is no number"),
        ({"bbox": [1, 2, [3], True]}, "bbox [1, 2, [3], True] has a value that is no number"),
        ({"iscrowd": 2}, "iscrowd 2 is neither 0 nor 1"),
        ({"iscrowd": "yes"}, "iscrowd 'yes' is neither 0 nor 1"),
        ({"iscrowd": [1]}, "iscrowd [1] is neither 0 nor 1"),
        ({"area": "large"}, "area 'large' is no number"),
        ({"area": [5]}, "area [5] is no number"),
        ({"area": -4}, "area -4 is negative"),
        ({"category_id": "dog"}, "category_id 'dog' is not among the categories"),
        ({"category_id": None}, "category_id is missing"),
        ({"image_id": None}, "image_id is missing"),
        ({"image_id": 7.5}, "image_id 7.5 is not among the images"),
    ],
)
@pytest.mark.parametrize("is_absent", [False, True])
def test_a_badly_formed_object_is_its_own_fault(changes: dict, reason: str, is_absent: bool, write: Write) -> None:
    bad = {**thing(5, 7, [1, 1, 1, 1]), **changes}
    if is_absent:  # the same as null
        bad = {key: value for key, value in bad.items() if value is not None}
    data = read_coco(write([picture(7)], [thing(1, 7, [1, 2, 10, 20]), bad]), "train2017", on_error="drop")
    assert data.boxes.tolist() == [[1, 2, 11, 22]] and [fault.reason for fault in data.dropped] == [reason]
    assert data.dropped[0].object.startswith("annotations[1] with id 5")


def test_whatever_means_zero_or_one_is_a_crowd_flag(write: Write) -> None:
    flags = (0, 0.0, False, None, 1, 1.0, True)
    objects = [thing(number, 7, [1, 2, 10, 20], iscrowd=flag) for number, flag in enumerate(flags)]
    data = read_coco(write([picture(7)], objects), "train2017")
    assert data.ignore.tolist() == [False] * 4 + [True] * 3


def test_sides_of_an_image_are_whole_numbers(write: Write) -> None:
    images = [picture(1, width=60.0), picture(2, width=60.5), picture(3, height=1e30)]
    data = read_coco(write(images, [thing(1, 2, [1, 2, 3, 4])]), "train2017", on_error="drop")
    assert data.sizes.tolist() == [[40, 60]] and data.left_out == {"2", "3"} and len(data.boxes) == 0
    assert [fault.reason for fault in data.dropped] == ["image 2 is 60.5 x 40 pixels", "image 3 is 60 x 1e+30 pixels"]


def test_two_spellings_of_a_file_are_one_image(write: Write) -> None:
    images = [picture(1), picture(2, file_name="./1.jpg"), picture(3, file_name="a/../3.jpg"), picture(4)]
    (root := write(images, [], files=["1.jpg", "3.jpg", "4.jpg"])).joinpath("train2017", "a").mkdir()
    data = read_coco(root, "train2017", on_error="drop")
    assert data.image_ids.tolist() == ["1", "3", "4"] and data.image_paths[1] == str(root / "train2017" / "3.jpg")
    assert [fault.reason for fault in data.dropped] == ["instances_train2017.json lists it again, with image id 2"]
    assert data.left_out == {"2"}


def test_a_folder_that_cannot_be_listed_is_the_fault_of_its_images(write: Write) -> None:
    names = ["1.jpg", f"{'a' * 300}/x.jpg", "1.jpg/x.jpg", "d\0/y.jpg", f"{'b' * 300}.jpg"]
    images = [picture(number, file_name=name) for number, name in enumerate(names)]
    data = read_coco(write(images, [], files=["1.jpg"]), "train2017", on_error="drop")
    assert data.image_ids.tolist() == ["0"] and data.left_out == {"1", "2", "3", "4"}
    long, inside, null, name = (fault.reason for fault in data.dropped)
    assert long == "its folder cannot be listed (File name too long)" and "null" in null
    assert inside == name == "no such image"


def test_scores_need_no_pictures(write: Write) -> None:
    objects = [thing(1, 7, [1, 2, 10, 20]), thing(2, 8, [1, 2, 10, 20])]
    root = write([picture(7), picture(8, file_name="../8.jpg")], objects, files=[])
    (root / "train2017").rmdir()
    data = read_coco(root, "train2017", on_error="drop", pictures=False)
    assert data.image_paths.tolist() == [str(root / "train2017" / "7.jpg")] and data.boxes.tolist() == [[1, 2, 11, 22]]
    assert data.left_out == {"8"}  # a file outside of the folder is never named
    settings = DataSettings(format="coco", root=str(root), train="train2017", val="train2017", on_error="drop")
    assert read_annotations(settings, "train2017", pictures=False).sizes.tolist() == [[40, 60]]
    with pytest.raises(UserError, match="no folder"):
        read_annotations(settings, "train2017")


def test_a_file_with_annotations_wins_over_one_without(write: Write) -> None:
    write([picture(7)], kind="image_info")
    assert not read_coco(write([picture(7)], kind="image_info"), "train2017").annotated
    root = write([picture(7)], [thing(1, 7, [1, 2, 10, 20])])
    assert len(read_coco(root, "train2017").boxes) == 1


def test_unusable_images_go_with_their_objects(write: Write, tmp_path: Path) -> None:
    """Not one file outside the folder of images is opened: the secret would be a sound image."""
    Image.new("RGB", (60, 40)).save(tmp_path / "secret.jpg")
    images = [
        picture(1),
        picture(2),
        picture(3, width=None),
        picture(4, height=0),
        picture(5, file_name="../secret.jpg"),
        picture(6, file_name=str(tmp_path / "secret.jpg")),
        picture(7, file_name="a/../../train2017/../secret.jpg"),
        picture(8, file_name="8.jpg"),
        picture(8, file_name="other.jpg"),
        picture(9, file_name="1.jpg"),
        picture(1),
        picture(10, file_name="a/10.jpg"),
    ]
    objects = [thing(image["id"], image["id"], [1, 2, 3, 4]) for image in images if image["id"] not in (1, 8)]
    files = ["1.jpg", "3.jpg", "4.jpg", "8.jpg", "other.jpg", "a/10.jpg"]
    data = read_coco(write(images, objects, files=files), "train2017", on_error="drop")
    assert data.image_ids.tolist() == ["1", "10"] and data.boxes.tolist() == [[1, 2, 4, 6]]
    assert data.left_out == {"2", "3", "4", "5", "6", "7", "8", "9"}
    reasons = [str(fault).removeprefix("train2017/") for fault in data.dropped]
    assert reasons == [
        "2.jpg: no such image",
        "3.jpg: image 3 has no width and height",
        "4.jpg: image 4 is 60 x 0 pixels",
        "../secret.jpg: file_name leaves the image folder",
        f"{tmp_path}/secret.jpg: file_name leaves the image folder",
        "a/../../train2017/../secret.jpg: file_name leaves the image folder",
        "8.jpg: its image id 8 is that of another image too",
        "other.jpg: its image id 8 is that of another image too",
        "1.jpg: instances_train2017.json lists it again, with image id 9",
        "1.jpg: instances_train2017.json lists it again, with image id 1",
    ]


def test_everything_left_out_leaves_an_empty_set(write: Write) -> None:
    data = read_coco(write([picture(1)], [thing(1, 1, [1, 2, 3, 4])], files=[]), "train2017", on_error="drop")
    assert len(data) == 0 and data.boxes.shape == (0, 4) and data.offsets.tolist() == [0]


# Files that are not what they should be


def test_nan_is_looked_for_outside_of_text_alone(write: Write) -> None:
    """Python's json writes NaN and Infinity; a file name may hold them too, after a quote for example."""
    name = 'a "NaN, Infinity, -Infinity.jpg'
    objects = [thing(1, 7, [1, 2, float("nan"), 4]), thing(2, 7, [1, 2, 3, 4], area=float("inf"), score=float("-inf"))]
    data = read_coco(write([picture(7, file_name=name)], objects), "train2017", on_error="drop")
    assert Path(data.image_paths[0]).name == name and len(data.dropped) == 1
    assert data.boxes.tolist() == [[1, 2, 4, 6]] and data.areas.tolist() == [12]


def test_what_is_missing_is_said(write: Write, tmp_path: Path) -> None:
    root = write([picture(7)], [])
    write([picture(7)], name="test2017", kind="image_info")
    there = r"no set val2017 \(looked for .*instances_val2017\.json\); the sets there are test2017, train2017"
    for names in ([], ["dog"]):
        with pytest.raises(UserError, match=there):
            read_coco(root, "val2017", names)
    with pytest.raises(UserError, match=r"no such folder .*images\.cocodataset\.org .*annotations_trainval2017\.zip"):
        read_coco(tmp_path / "nowhere", "val2017")
    with pytest.raises(UserError, match=r"no set at=all\.json .*all\.json"):
        read_coco(root, "at=all.json")
    (root / "train2017").rename(root / "train")
    assert find_classes(root, ["train2017", "val2017"]) == ("cat", "dog")  # names need no images
    with pytest.raises(UserError, match=r"no folder .*train2017 for the set train2017; .*cocodataset"):
        read_coco(root, "train2017")
    with pytest.raises(UserError, match=r"no categories to take class names from; give them by --data\.classes"):
        find_classes(write([picture(7)], [], []), ["train2017"])


# Real data


@pytest.mark.parametrize(
    ("name", "objects", "crowds", "present"), [("train2017", 368, 6, 61), ("val2017", 550, 11, 63)]
)
def test_real_images_as_pycocotools_reads_them(
    name: str, objects: int, crowds: int, present: int, shared_data: Path
) -> None:
    data = read_coco(shared_data / "coco", name)
    assert (len(data), len(data.boxes), int(data.ignore.sum()), len(set(data.labels))) == (40, objects, crowds, present)
    assert data.category_ids == tuple(COCO_IDS) and data.dropped == ()
    reference = COCO(str(shared_data / "coco" / "annotations" / f"instances_{name}.json"))
    names = [reference.cats[own]["name"] for own in data.category_ids]
    assert list(data.class_names) == names
    for index, image_id in enumerate(map(int, data.image_ids)):
        image, rows = reference.imgs[image_id], data.objects(index)
        assert Path(data.image_paths[index]).name == image["file_name"]
        assert data.sizes[index].tolist() == [image["height"], image["width"]]
        annotations = reference.loadAnns(reference.getAnnIds(image_id))
        boxes = [[x, y, x + width, y + height] for x, y, width, height in (item["bbox"] for item in annotations)]
        assert data.boxes[rows].tolist() == boxes  # none of these overhangs its image
        assert data.areas[rows].tolist() == [item["area"] for item in annotations]
        assert data.ignore[rows].tolist() == [item["iscrowd"] == 1 for item in annotations]
        own = [data.category_ids[label - 1] for label in data.labels[rows]]
        assert own == [item["category_id"] for item in annotations]
