"""Images that the training and the validation set share.

Letters: ``S`` images that two sets share.
"""

import os

import numpy as np

from detection.data.checks import counted
from detection.data.dataset import Annotations


def shared_images(train: Annotations, val: Annotations) -> np.ndarray:
    """(S,) int64: indices into `train`, ascending, of the images that are in `val` as well.

    Two images are the same when they are one file, or have one id and lie in one folder. Links are followed for
    folders, not for the images themselves.
    """
    files, names = _identities(val)
    known, called = set(files), set(names)
    pairs = zip(*_identities(train), strict=True)
    return np.array([i for i, (file, name) in enumerate(pairs) if file in known or name in called], np.int64)


def overlap_sentence(train: Annotations, val: Annotations) -> str:
    """A warning that names the images of `train` that `val` has too; empty when there is none."""
    shared = shared_images(train, val)
    if not len(shared):
        return ""
    first = ", ".join(train.image_ids[shared[:3]].tolist()) + (", ..." if len(shared) > 3 else "")
    what = f"{counted(len(shared), 'image')} of the training set {'is' if len(shared) == 1 else 'are'}"
    return f"{what} in the validation set too ({first}): scores will be higher than on images never seen"


def _identities(annotations: Annotations) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(folder, file name) and (folder, id) of each image; each folder is looked up once, not once an image."""
    split = [os.path.split(path) for path in annotations.image_paths.tolist()]
    real = {folder: os.path.realpath(folder) for folder in {folder for folder, _ in split}}
    ids = annotations.image_ids.tolist()
    files = [(real[folder], name) for folder, name in split]
    return files, [(folder, image_id) for (folder, _), image_id in zip(files, ids, strict=True)]
