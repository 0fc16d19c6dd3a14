"""torchvision's way to load: Pillow decodes, `transforms.v2` does the rest, in the order its documentation advises.

Shapes: ``B`` images, ``N`` objects of an image, ``H, W`` rows and columns.
"""

from itertools import islice

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.transforms import v2

from detection.config import Config
from detection.data.dataset import Annotations
from detection.data.loader import TrainingBatches

Target = dict[str, Tensor]


class ReferenceImages(Dataset[tuple[Tensor, Target]]):
    """Images as a worker prepares them: mirrored, resized as uint8, then in [0, 1] and normalized."""

    def __init__(self, annotations: Annotations, config: Config, mirrored: float) -> None:
        """Takes the settings' sizes, mean and deviation, and the probability of being mirrored."""
        self.annotations = annotations
        self.transform = v2.Compose(
            [
                v2.ToImage(),
                v2.RandomHorizontalFlip(mirrored),
                v2.Resize(config.data.min_size[0], max_size=config.data.max_size),
                v2.ToDtype({tv_tensors.Image: torch.float32, "others": None}, scale=True),
                v2.Normalize(config.model.image_mean, config.model.image_std),
            ]
        )

    def __len__(self) -> int:
        return len(self.annotations)

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        image = Image.open(self.annotations.image_paths[index]).convert("RGB")
        rows = self.annotations.objects(index)
        boxes = tv_tensors.BoundingBoxes(
            torch.from_numpy(self.annotations.boxes[rows]).float(), format="XYXY", canvas_size=image.size[::-1]
        )
        return self.transform(image, {"boxes": boxes, "labels": torch.from_numpy(self.annotations.labels[rows])})


class ReferenceBatch:
    """Collation: the batch tensor that torchvision's model pads its images into, and the targets."""

    def __init__(self, config: Config) -> None:
        data, model = config.data, config.model
        self.transform = GeneralizedRCNNTransform(data.min_size[0], data.max_size, model.image_mean, model.image_std)
        self.padding = model.padding

    def __call__(self, samples: list[tuple[Tensor, Target]]) -> tuple[Tensor, list[Target]]:
        """B samples to (B, 3, H, W) and B targets."""
        images, targets = zip(*samples, strict=True)
        return self.transform.batch_images(list(images), self.padding), list(targets)


def reference_loader(
    annotations: Annotations, config: Config, batch_size: int, count: int, pin_memory: bool
) -> DataLoader[tuple[Tensor, list[Target]]]:
    """`count` batches of the very images that ours draws; the reference groups them by shape, too."""
    data = config.data
    ours = TrainingBatches(annotations.sizes, batch_size, config.seed, data.group_by_shape)
    return DataLoader(
        ReferenceImages(annotations, config, mirrored=data.augment.hflip),
        batch_sampler=[[index for _, index in keys] for keys in islice(ours, count)],
        num_workers=data.workers,
        collate_fn=ReferenceBatch(config),
        pin_memory=pin_memory,
    )
