"""Annotations as flat arrays, and the images they belong to.

Letters: ``I`` images, ``M`` objects of all images, ``N`` objects of one, ``K`` classes, ``H, W`` rows and columns.
Worker processes that are forked share flat arrays, of which a list of dictionaries would in time be copied object by
object; to workers that are started afresh each array is pickled in one piece.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, ImageOps

from detection.config import DataSettings
from detection.data.checks import Fault
from detection.data.jpeg import decode_enough
from detection.errors import UserError

UNDECODABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""What Pillow raises for a file that is missing, is no image, or is not a sound one."""

COCO_AREAS = (32.0**2, 96.0**2)
"""Square pixels of the original image where COCO's medium and large objects begin (cocodataset.org/#detection-eval)."""

PLAIN_NUMBER = re.compile("0|[1-9][0-9]*")
"""Image ids that lose nothing as numbers; VOC's "000017" would lose its zeros."""


@dataclass
class Annotations:
    """Images and objects of a data set. The objects of image `i` are the rows ``offsets[i]:offsets[i + 1]``."""

    class_names: tuple[str, ...]
    """K names; label k is the name at k - 1."""
    image_ids: np.ndarray
    """(I,) str: what the data set calls the image."""
    image_paths: np.ndarray
    """(I,) str: absolute, or relative to the working directory."""
    sizes: np.ndarray
    """(I, 2) int32: rows and columns; zeros where they are not known, which is only so without pictures."""
    offsets: np.ndarray
    """(I + 1,) int64: where each image's objects begin."""
    boxes: np.ndarray
    """(M, 4) float64: x1, y1, x2, y2 in continuous pixels, exactly as in the file, since that is what is scored.

    They may overhang their image by up to a pixel: see :meth:`cut_boxes`.
    """
    labels: np.ndarray
    """(M,) int64: 1..K."""
    ignore: np.ndarray
    """(M,) bool: neither target nor background (VOC difficult, COCO iscrowd)."""
    areas: np.ndarray
    """(M,) float64: square pixels; COCO's own are those of the segments."""
    annotated: bool = True
    """False for a set that comes without annotations (VOC2012 test): it can be predicted, not scored."""
    dropped: tuple[Fault, ...] = ()
    """Faults because of which objects or images were left out."""
    category_ids: tuple[int, ...] = ()
    """K ids that the classes have in the data set's own files (COCO: 1..90 with gaps); none: 1..K."""
    left_out: frozenset[str] = frozenset()
    """Ids of the images that the set names but that were left out because of faults."""
    image_classes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(I,) int64: 1..K where the set names the one class of an image, which need not have a box; 0 elsewhere.

    Empty where it names none (all but ILSVRC).
    """

    def __len__(self) -> int:
        return len(self.image_ids)

    def objects(self, index: int) -> slice:
        """The rows of the objects of image `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def cut_boxes(self) -> np.ndarray:
        """(M, 4) float64: the part of each box that is inside its image."""
        return np.clip(self.boxes, 0, self.sizes[self.image_of_object][:, [1, 0, 1, 0]])

    def require_annotated(self) -> None:
        """Raises a UserError when there is nothing to score against."""
        if not self.annotated:
            raise UserError("the data set has no annotations to score against; name a set that has, or only predict")

    def own_category_ids(self) -> tuple[int, ...]:
        """The K ids that stand for the classes in files."""
        return self.category_ids or tuple(range(1, len(self.class_names) + 1))

    def json_ids(self) -> list[int] | list[str]:
        """The I image ids as a COCO file holds them: numbers if all of them are plain ones, otherwise text."""
        ids = self.image_ids.tolist()
        return [int(image_id) for image_id in ids] if all(map(PLAIN_NUMBER.fullmatch, ids)) else ids

    @property
    def image_of_object(self) -> np.ndarray:
        """(M,) int64: index of the image that each object is in."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.offsets))


class ImageSize(NamedTuple):
    """A size at which a detector looks at images."""

    shorter: float
    """Pixels of the shorter side ..."""
    longest: float
    """... unless the longer one would exceed this: see :func:`resized_size`."""
    padding: int
    """Padded rows and columns are multiples of this."""

    def resized(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns that an image of `size` gets."""
        return resized_size(size, self.shorter, self.longest)


class Decoded(NamedTuple):
    """The content of an image file."""

    pixels: np.ndarray
    """(H, W, 3) uint8 RGB: all of the image, as stored or reduced."""
    size: tuple[int, int]
    """Rows and columns as stored; boxes are in pixels of that size."""

    @staticmethod
    def whole(pixels: np.ndarray) -> "Decoded":
        """With (H, W, 3) pixels that are not reduced."""
        return Decoded(pixels, pixels.shape[:2])


@dataclass
class Sample:
    """One image as the detector gets it, with its objects."""

    image: np.ndarray
    """(H, W, 3) uint8 RGB, resized."""
    original_size: tuple[int, int]
    """Rows and columns before resizing (after any crop)."""
    boxes: np.ndarray
    """(N, 4) float32: x1, y1, x2, y2 in pixels of the resized image."""
    labels: np.ndarray
    """(N,) int64: 1..K."""
    ignore: np.ndarray
    """(N,) bool."""
    position: int
    """Place of the sample in the run."""
    index: int
    """Index of the image in its annotations."""


def without_objects(
    class_names: Sequence[str],
    image_ids: Sequence[str],
    image_paths: Sequence[str],
    sizes: np.ndarray,
    category_ids: Sequence[int] = (),
) -> Annotations:
    """Pictures that nobody has annotated: they can be predicted, not scored.

    Args:
        class_names: K names.
        image_ids: I names.
        image_paths: I files.
        sizes: (I, 2) rows and columns.
        category_ids: K ids of the classes in files; none: 1..K.
    """
    return Annotations(
        class_names=tuple(class_names),
        image_ids=np.array(image_ids, dtype=np.str_),
        image_paths=np.array(image_paths, dtype=np.str_),
        sizes=np.asarray(sizes, np.int32).reshape(-1, 2),
        offsets=np.zeros(len(image_ids) + 1, np.int64),
        boxes=np.zeros((0, 4)),
        labels=np.zeros(0, np.int64),
        ignore=np.zeros(0, bool),
        areas=np.zeros(0),
        annotated=False,
        category_ids=tuple(category_ids),
    )


def concatenate(parts: Sequence[Annotations]) -> Annotations:
    """The images of all parts one after another; the class names must be the same.

    Raises:
        UserError: the class names differ, or some parts are annotated and others are not.
    """
    if len({part.class_names for part in parts}) != 1:
        raise UserError("sets with different class names cannot be joined; give the names with --data.classes")
    if len({part.annotated for part in parts}) != 1:
        raise UserError("a set without annotation files cannot be joined with annotated ones; read it by itself")
    starts = np.cumsum([0] + [len(part.boxes) for part in parts])
    offsets = [part.offsets[1:] + start for part, start in zip(parts, starts, strict=False)]
    joined = ("image_ids", "image_paths", "sizes", "boxes", "labels", "ignore", "areas")
    return Annotations(
        class_names=parts[0].class_names,
        offsets=np.concatenate([np.zeros(1, np.int64), *offsets]),
        annotated=parts[0].annotated,
        dropped=tuple(fault for part in parts for fault in part.dropped),
        category_ids=parts[0].category_ids,
        left_out=frozenset().union(*(part.left_out for part in parts)),
        image_classes=_joined_classes(parts),
        **{name: np.concatenate([getattr(part, name) for part in parts]) for name in joined},
    )


def _joined_classes(parts: Sequence[Annotations]) -> np.ndarray:
    if not any(len(part.image_classes) for part in parts):
        return np.zeros(0, np.int64)
    rows = (part.image_classes if len(part.image_classes) else np.zeros(len(part), np.int64) for part in parts)
    return np.concatenate([*rows])


def for_training(annotations: Annotations, settings: DataSettings) -> Annotations:
    """What is trained on: boxes cut to their images, objects as `settings.difficult` and images as `empty` say.

    Images and their indices may become fewer; batches, samples and messages must all come from the result. Applying
    it again changes nothing.

    Args:
        annotations: as read.
        settings: `difficult` "ignore" leaves ignored objects as they are, "use" makes them ordinary objects, "drop"
            takes them out. `empty` "drop" then takes out every image without a target, that is without an object that
            is not ignored.

    Raises:
        UserError: no image is left.
    """
    kept = _cut_to_images(annotations)
    if settings.difficult == "use":
        kept = replace(kept, ignore=np.zeros_like(kept.ignore))
    if settings.difficult == "drop":
        kept = _keep_objects(kept, ~kept.ignore)
    if settings.empty == "drop":
        targets = np.bincount(kept.image_of_object[~kept.ignore], minlength=len(kept))
        kept = keep_images(kept, targets > 0)
    if not len(kept):
        emptied = f"none of its {len(annotations)} images has a target, and --data.empty drop leaves such images out"
        why = emptied if len(annotations) else "it has no usable image"
        raise UserError(f"{settings.root}: {settings.train} cannot be trained on: {why}; name another by --data.train")
    return kept


def _cut_to_images(annotations: Annotations) -> Annotations:
    """With boxes that are inside their images; a box of which nothing is inside goes."""
    cut = annotations.cut_boxes()
    if np.array_equal(cut, annotations.boxes):
        return annotations
    return _keep_objects(replace(annotations, boxes=cut), (cut[:, 2:] > cut[:, :2]).all(axis=1))


def _keep_objects(annotations: Annotations, keep: np.ndarray) -> Annotations:
    """The objects where `keep` (M,) is true."""
    kept_before = np.concatenate([np.zeros(1, np.int64), np.cumsum(keep, dtype=np.int64)])
    kept = {name: getattr(annotations, name)[keep] for name in ("boxes", "labels", "ignore", "areas")}
    return replace(annotations, offsets=kept_before[annotations.offsets], **kept)


def keep_images(annotations: Annotations, keep: np.ndarray) -> Annotations:
    """The images where `keep` (I,) is true, with their objects."""
    if keep.all():
        return annotations
    rest = _keep_objects(annotations, keep[annotations.image_of_object])
    of_images = ("image_ids", "image_paths", "sizes", *(("image_classes",) if len(rest.image_classes) else ()))
    kept = {name: getattr(rest, name)[keep] for name in of_images}
    return replace(rest, offsets=np.append(rest.offsets[:-1][keep], rest.offsets[-1]), **kept)


def read_image(path: str | Path, obey_exif: bool = False) -> np.ndarray:
    """Reads an image: (H, W, 3) uint8 RGB, as stored; with `obey_exif` turned upright as its EXIF data says.

    Raises:
        UserError: as :func:`read_decoded`.
    """
    return read_decoded(path, obey_exif).pixels


def read_decoded(path: str | Path, obey_exif: bool = False, enough: tuple[int, int] | None = None) -> Decoded:
    """Reads an image as :func:`read_image` does; a JPEG file may come with `enough` rows and columns instead.

    It does if it has at least twice as many: see :func:`~detection.data.jpeg.decode_enough`.

    Raises:
        UserError: the file is missing, does not decode, or has more than 8 bits per channel.
    """
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            return _decoded(image, content, str(path), obey_exif, enough)
    except FileNotFoundError:
        raise UserError(f"{path}: no such image; restore the file or take it out of its set") from None
    except UNDECODABLE as error:
        why = why_undecodable(error)
        raise UserError(f"{path}: the image does not decode ({why}); restore or remove the file") from None


def _decoded(image: Image.Image, content: bytes, name: str, obey_exif: bool, enough: tuple[int, int] | None) -> Decoded:
    """The content of a file that Pillow has opened; an ordinary JPEG file is decoded faster than Pillow would."""
    if image.format == "JPEG" and image.mode in ("RGB", "L") and not (obey_exif and "exif" in image.info):
        size = image.height, image.width
        pixels = decode_enough(content, size, enough or size)
        if pixels is not None:
            return Decoded(pixels, size)
    return Decoded.whole(to_rgb(image, name, obey_exif))


def to_rgb(image: Image.Image, name: str, obey_exif: bool) -> np.ndarray:
    """A picture as (H, W, 3) uint8 RGB; grey, CMYK and palettes are converted, transparency is dropped.

    Raises:
        UserError: it has more than 8 bits per channel, which a conversion would cut off.
    """
    if image.mode.startswith(("I", "F")):
        raise UserError(f"{name}: more than 8 bits per channel; save the image with 8")
    return np.array((ImageOps.exif_transpose(image) if obey_exif else image).convert("RGB"))


def read_size(path: str | Path) -> tuple[int, int]:
    """Rows and columns of an image as stored, from its header alone.

    Raises:
        UNDECODABLE: one of these, when the file is missing or has no such header.
    """
    with Image.open(path) as image:
        return image.height, image.width


def why_undecodable(error: Exception) -> str:
    """Why Pillow could not decode a file, in a few words."""
    return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error)


def resized_size(size: tuple[int, int], min_size: float, max_size: float) -> tuple[int, int]:
    """Rows and columns after resizing: the one rule of the project.

    The shorter side becomes `min_size` unless the longer one would then exceed `max_size`: the scale is
    ``min(min_size / shorter, max_size / longer)`` (Faster R-CNN, arXiv 1506.01497, and its released code), and both
    sides are rounded to whole pixels.
    """
    scale = min(min_size / min(size), max_size / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The (H, W, 3) uint8 image with `size` rows and columns, by bilinear interpolation without a low-pass filter."""
    if image.shape[:2] == tuple(size):
        return image
    return cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
