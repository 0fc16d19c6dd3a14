"""What eval_det.py is compared with: a loop over the peer, one image after another, scored by pycocotools.

``python -m detection.benchmark.plain_loop CHECKPOINT OUTPUT``: the set is the checkpoint's `data.val`.
"""

import json
import sys

import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.transforms.v2 import functional as F

from detection.benchmark.peer import build_peer
from detection.config import from_dict


def main(checkpoint: str, output: str) -> None:
    """Predict, write, read, score and print."""
    state = torch.load(checkpoint, weights_only=True)
    config = from_dict(state["config"])
    device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
    peer = build_peer(config, len(state["class_names"]))
    peer.load_state_dict(state["model"])
    peer.eval().to(device)
    objects = COCO(f"{config.data.root}/annotations/instances_{config.data.val}.json")
    rows = []
    for image_id, image in objects.imgs.items():
        picture = Image.open(f"{config.data.root}/{config.data.val}/{image['file_name']}").convert("RGB")
        with torch.inference_mode():
            (found,) = peer([F.to_dtype(F.pil_to_tensor(picture), torch.float32, scale=True).to(device)])
        corners, scores, labels = (found[name].tolist() for name in ("boxes", "scores", "labels"))
        rows += [
            {"image_id": image_id, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score}
            for (x1, y1, x2, y2), score, label in zip(corners, scores, labels, strict=True)
        ]
    with open(output, "w") as file:
        json.dump(rows, file)
    evaluation = COCOeval(objects, objects.loadRes(output), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()


if __name__ == "__main__":
    main(*sys.argv[1:])
