"""JPEG files by OpenCV, which decodes them a quarter faster than Pillow, to the same pixels.

OpenCV fills what a file lacks with grey, without a word. A file that goes on to its end marker cannot make a decoder
run out of data, so only such files are decoded here, and the others are left to Pillow, which refuses them.

A file holds the cosine transforms of blocks of 8 x 8 pixels. From their low frequencies alone a decoder makes 4 x 4,
2 x 2 or 1 x 1 pixels of a block, in less time than it makes all (libjpeg's ``scale_denom``).
"""

import re

import cv2
import numpy as np

_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])", re.DOTALL)
"""A marker that is followed by a segment, or the end marker. In a scan, 0xff is followed by 0 or a restart marker, and
any number of 0xff may come before a marker (ITU-T T.81, B.1.1.2 and B.1.1.5)."""
_END = b"\xd9"
_REDUCED = {
    1: 0,
    2: cv2.IMREAD_REDUCED_GRAYSCALE_2,
    4: cv2.IMREAD_REDUCED_GRAYSCALE_4,
    8: cv2.IMREAD_REDUCED_GRAYSCALE_8,
}
"""OpenCV's flags for the factors; those with COLOR in their names would add that the channels be blue, green, red."""


def decode_jpeg(content: bytes, factor: int = 1) -> np.ndarray | None:
    """The pixels (H, W, 3) uint8 RGB as stored; None for a file that Pillow has to judge.

    Args:
        content: a JPEG file of one or three channels.
        factor: 1, 2, 4 or 8, by which rows and columns are divided, and rounded up.
    """
    if not is_complete(content):
        return None
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION | _REDUCED[factor]
    return cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def decode_enough(content: bytes, size: tuple[int, int], enough: tuple[int, int]) -> np.ndarray | None:
    """The pixels as :func:`decode_jpeg` gives them, or, from reduced ones, exactly `enough` rows and columns.

    Args:
        content: a JPEG file of one or three channels.
        size: its rows and columns.
        enough: how many will do; where both of `size` are at least 2, 4 or 8 times as many, decoding is reduced.
    """
    (rows, columns), least = enough, min(size[0] / enough[0], size[1] / enough[1])
    factor = max((factor for factor in _REDUCED if factor <= least), default=1)
    pixels = decode_jpeg(content, factor)
    if pixels is None or factor == 1:
        return pixels
    # The last reduced pixel may lie partly beyond the image: the scale is that of the sides before they were rounded.
    scale = {"fx": factor * columns / size[1], "fy": factor * rows / size[0]}
    return cv2.resize(pixels, None, **scale, interpolation=cv2.INTER_LINEAR)[:rows, :columns]


def is_complete(content: bytes) -> bool:
    """Whether a JPEG file goes on to the end marker of its image (not only to that of a thumbnail in a segment)."""
    place = 2
    while marker := _MARKER.search(content, place):
        if marker[1] == _END:
            return True
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return False
