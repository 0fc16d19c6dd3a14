"""Every setting of ResiDet: one tree of frozen dataclasses.

The text under a field is its help on the command line. Values come from a recipe (``configs/*.yaml``) and from
``--section.field value`` overrides; :mod:`detection.finalize` checks them and derives what follows from them.
Nothing here imports torch, so that ``--help`` is immediate.

Sources of the default values: the published Faster R-CNN system ("FR", arXiv 1506.01497 and its released code),
"Deep Residual Learning for Image Recognition" ("RN", arXiv 1512.03385, appendix A) and torchvision ("TV").
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from detection.errors import UserError

VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The 20 classes of PASCAL VOC, in the devkit's order."""


@dataclass(frozen=True)
class ProposalSettings:
    """The region proposal network (RPN)."""

    channels: int = 0
    """Width of the 3x3 convolution; 0 takes as many channels as the features have (FR with VGG: 512)."""
    anchor_sizes: tuple[float, ...] = (128.0, 256.0, 512.0)
    """Square roots of the anchors' areas, in pixels of the resized image; a pyramid takes one size a level."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """Height over width of the anchors (FR)."""
    ignore_border: bool = True
    """Leave anchors that cross the image border out of training (FR; TV keeps them)."""
    fg_iou: float = 0.7
    """An anchor with at least this IoU to an object is positive, as is the best anchor of each object (FR)."""
    bg_iou: float = 0.3
    """An anchor whose best IoU is below this is negative (FR)."""
    samples: int = 256
    """Anchors sampled per image for the loss (FR)."""
    fg_fraction: float = 0.5
    """At most this share of the sampled anchors is positive (FR)."""
    beta: float = 1 / 9
    """Where the smooth L1 box loss turns from quadratic to linear (FR code: sigma 3, that is 1/9)."""
    box_weight: float = 1.0
    """Factor of the box loss (FR: lambda 10 over about 2400 positions, nearly the same as 1 over 256 samples)."""
    pre_nms_train: int = 12000
    """Highest-scored anchors of each level that enter NMS in training (FR code)."""
    pre_nms_test: int = 6000
    """The same at test time (FR code)."""
    post_nms_train: int = 2000
    """Proposals of an image after NMS in training (FR)."""
    post_nms_test: int = 300
    """Proposals of an image after NMS at test time (FR, RN)."""
    nms_iou: float = 0.7
    """Proposals that overlap a better one by more than this are removed (FR)."""
    score_threshold: float = 0.0
    """Proposals scored lower than this probability are removed (TV)."""
    min_size: float = 16.0
    """Proposals with a side below this many pixels of the original image are removed (FR code)."""


@dataclass(frozen=True)
class RegionSettings:
    """The region head (the "Fast R-CNN" part)."""

    pooling: Literal["align", "max"] = "align"
    """RoIAlign, or the RoI max-pooling of the published system."""
    pool_size: int = 0
    """Rows and columns of a pooled region; 0 takes the head's own: 14 for c4, 7 for fpn and fc."""
    sampling_ratio: int = 2
    """RoIAlign's sampling points per bin and direction (TV)."""
    hidden: int = 1024
    """Width of the two layers of the fpn head (TV)."""
    dropout: float = 0.5
    """Dropout after fc6 and fc7 of the fc head (FR)."""
    class_agnostic: bool = False
    """One box regression for all classes instead of one for each."""
    samples: int = 128
    """Regions sampled per image for the loss (FR code; TV 512)."""
    fg_fraction: float = 0.25
    """At most this share of the sampled regions is foreground (FR)."""
    fg_iou: float = 0.5
    """A region with at least this IoU to an object is foreground (FR)."""
    bg_iou_high: float = 0.5
    """A region is background when its best IoU is below this ..."""
    bg_iou_low: float = 0.0
    """... and at least this (FR on VOC 0.1, on COCO 0)."""
    add_gt: bool = True
    """Let the annotated boxes themselves take part in the sampling (FR, TV)."""
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    """Factors of the encoded offsets x, y, w, h (FR code: inverse standard deviations)."""
    max_side_ratio: float = 62.5
    """A regressed side grows at most by this factor (TV: 1000/16); it keeps exp() finite."""
    beta: float = 1.0
    """Where the smooth L1 box loss turns from quadratic to linear (FR 1, TV 1/9)."""
    box_weight: float = 1.0
    """Factor of the box loss (FR)."""
    class_init_std: float = 0.01
    """Standard deviation of the classifier's first weights (FR)."""
    box_init_std: float = 0.001
    """Standard deviation of the box regression's first weights (FR)."""


@dataclass(frozen=True)
class ModelSettings:
    """The detector's architecture."""

    head: Literal["c4", "fpn", "fc"] = "c4"
    """c4: ResNet, conv5 on each region. fpn: feature pyramid, two-layer head. fc: VGG, fc6 and fc7 on each region."""
    norm: Literal["frozen", "batch", "sync", "group", "none"] = "frozen"
    """Normalization of the backbone; ResNet takes frozen, batch, sync or group, VGG takes none, batch or group."""
    freeze_at: int = 2
    """How many first stages are not trained: 0 none, 1 the stem (VGG: conv1), 2 also conv2, ... 5 all."""
    pyramid_channels: int = 256
    """Channels of every level of the feature pyramid."""
    global_context: bool = False
    """Put the vector of the whole image, pooled as one region, beside the vector of each region (RN, appendix B)."""
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    """Mean of the red, green and blue values, scaled to [0, 1], that is subtracted from images (TV, ImageNet)."""
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    """Standard deviation that images are divided by after that (TV, ImageNet)."""
    rpn: ProposalSettings = field(default_factory=ProposalSettings)
    roi: RegionSettings = field(default_factory=RegionSettings)

    @property
    def padding(self) -> int:
        """Padded image sizes are multiples of this many pixels: the coarsest stride in use."""
        return 64 if self.head == "fpn" else 32


@dataclass(frozen=True)
class AugmentSettings:
    """What happens to a training image, in this order; every value is a probability unless it says otherwise."""

    crop: float = 0.0
    """A random crop that keeps every box whole."""
    hflip: float = 0.5
    """Mirror left and right (the paper's only augmentation)."""
    vflip: float = 0.0
    """Mirror up and down."""
    colour: float = 0.0
    """Random brightness, contrast, saturation (each by up to 40 %) and hue (by up to 5 %)."""
    scale_jitter: tuple[float, float] = (1.0, 1.0)
    """Smallest and largest random factor on the resized image's size (1, 1: none)."""


@dataclass(frozen=True)
class DataSettings:
    """The data set and how its images reach the detector."""

    format: Literal["voc", "coco", "ilsvrc", "shapes", "single_shapes"] = "voc"
    """voc: a devkit or any folder in VOC layout. coco: COCO, or any COCO file. ilsvrc: ImageNet's localization data in
    Kaggle's layout. shapes, single_shapes: the small built-in sets; in the second an image holds one class."""
    root: str = "data/VOCdevkit"
    """voc: a devkit, or a folder with Annotations, JPEGImages and ImageSets. coco: with annotations, train2017."""
    train: str = "2007/trainval"
    """Training set. voc: SET, or YEAR/SET. coco: train2017, or IMAGES_DIR=FILE.json. A union is written with +."""
    val: str = "2007/test"
    """Set that is scored during training and by the tools; the same form."""
    classes: tuple[str, ...] = ()
    """Class names in the order of their labels, others are left out; none: VOC's 20 in a devkit, else those found."""
    difficult: Literal["ignore", "use", "drop"] = "ignore"
    """Difficult (COCO: crowd) boxes in training: neither target nor background, ordinary targets, or left out."""
    empty: Literal["keep", "drop"] = "keep"
    """Training images without a target: kept as background, or left out (scoring always takes every image)."""
    on_error: Literal["fail", "drop"] = "fail"
    """On faulty annotations: stop with a list of all of them, or leave out the object (or the unusable image)."""
    ids: str = ""
    """ilsvrc: the devkit's list of synsets in the order of their ids; none: the lines of LOC_synset_mapping.txt."""
    blacklist: str = ""
    """ilsvrc: file of the numbers of the validation images that are left out; none: all are taken."""
    min_size: tuple[int, ...] = (600,)
    """Shorter side after resizing, in pixels; training draws one of several values (FR: 600)."""
    max_size: int = 1000
    """The longer side is at most this long after resizing (FR code: 1000)."""
    test_min_size: int = 600
    """Shorter side at test time."""
    test_max_size: int = 1000
    """Limit of the longer side at test time."""
    group_by_shape: bool = True
    """Fill a batch with images that are all wide or all tall, so that little of it is padding."""
    workers: int = 2
    """Processes that read and prepare images; 0: the main process does it."""
    reduced_decoding: bool = False
    """Decode JPEGs at 1/2, 1/4 or 1/8 where that leaves pixels enough: faster; boxes stay, fine detail is smoother."""
    augment: AugmentSettings = field(default_factory=AugmentSettings)


@dataclass(frozen=True)
class LocalizationSettings:
    """One box for a class that is known or guessed (RN, appendix C); of train_loc, eval_loc and score_loc."""

    method: Literal["rpn", "rcnn", "pcr"] = "rpn"
    """rpn: per-class proposals, the best one is the answer. rcnn: the proposals of a trained rpn, each looked at again.
    pcr: one box a class from the whole crop (VGG)."""
    layer: Literal["conv5", "conv4"] = "conv5"
    """The maps that are read: rpn puts its anchors on them, the others take their mean (RN: conv5; VGG: conv5 only)."""
    crop: int = 224
    """Side of the crops that are trained on, and of the proposals that rcnn looks at, in pixels (RN)."""
    scales: tuple[int, int] = (256, 480)
    """Shorter side before a training crop is cut: smallest and largest (RN, as in classification)."""
    anchor_sizes: tuple[float, ...] = (64.0, 128.0, 224.0)
    """rpn: square roots of the anchors' areas, in pixels of the crop."""
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    """rpn: height over width of the anchors."""
    samples: int = 8
    """rpn: anchors of an image that enter the loss (RN)."""
    fg_fraction: float = 0.5
    """rpn: at most this share of them is positive; rcnn: this share of the proposals trained on is (RN: 1:1)."""
    fg_iou: float = 0.5
    """An anchor or proposal with at least this IoU to an object is positive."""
    bg_iou: float = 0.3
    """One whose best IoU is below this is negative."""
    box_weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    """Factors of the encoded offsets x, y, w, h."""
    beta: float = 1 / 9
    """Where the smooth L1 box loss turns from quadratic to linear."""
    box_weight: float = 1.0
    """Factor of the box loss."""
    dropout: float = 0.5
    """Dropout after VGG's fc6 and fc7 (pcr, rcnn)."""
    first_stage: str = ""
    """rcnn: checkpoint of the rpn whose proposals it looks at."""
    proposals: int = 200
    """rcnn: the best so many of a class are looked at (RN)."""
    test: Literal["1crop", "dense"] = "dense"
    """1crop: the centre of the image alone. dense: the whole image, at `test_scales`."""
    test_scales: tuple[int, ...] = (224, 288, 384, 480)
    """dense: shorter sides of the image, in pixels."""
    test_crop_from: int = 256
    """1crop: shorter side of the image that the centre is cut from."""


@dataclass(frozen=True)
class TrainSettings:
    """The training run. Its length is counted in iterations (optimizer steps)."""

    iterations: int = 70000
    """Optimizer steps of the whole run."""
    batch_size: int = 1
    """Images per optimizer step, over all processes and accumulated parts."""
    accumulate: int = 1
    """Parts of a batch computed one after another; each loss is normalized by its own part, then they are averaged."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """SGD with momentum, or AdamW."""
    lr: float = 0.001
    """Learning rate at `reference_batch` images per step; it is scaled linearly to `batch_size`."""
    reference_batch: int = 1
    """Batch size that `lr` was chosen for."""
    momentum: float = 0.9
    """Momentum of SGD (FR)."""
    weight_decay: float = 0.0005
    """Weight decay (FR); normalization parameters are exempt."""
    bias_lr_factor: float = 1.0
    """Learning rate of biases, relative (FR code: 2)."""
    bias_weight_decay: bool = True
    """Whether biases decay as well (FR code: no)."""
    schedule: Literal["multistep", "cosine", "onecycle"] = "multistep"
    """multistep: times `gamma` at each of `steps`. cosine: down to 0. onecycle: up for 30 % of the run, then down."""
    steps: tuple[int, ...] = (50000,)
    """Iterations at which multistep lowers the learning rate."""
    gamma: float = 0.1
    """Factor of multistep (FR)."""
    warmup_iterations: int = 500
    """Iterations over which the learning rate rises linearly to its value (multistep and cosine)."""
    warmup_factor: float = 0.001
    """Share of the learning rate at which the warm-up begins."""
    clip_norm: float = 0.0
    """Scale gradients down to this norm when it is exceeded; 0: never."""
    precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto"
    """Arithmetic of convolutions; auto: bf16 on a GPU that has it, otherwise fp32."""
    channels_last: bool = True
    """Keep feature maps with channels innermost, the faster memory layout of convolutions."""
    deterministic: bool = False
    """Refuse operations that have no deterministic form (the CPU is deterministic in any case)."""
    ema_decay: float = 0.0
    """Decay of an exponential moving average of the weights, which is then scored and saved too; 0: none."""
    eval_every: int = 0
    """Score the validation set every so many iterations; 0: at the end only."""
    checkpoint_every: int = 1000
    """Write last.pt every so many iterations (and at the end)."""
    log_every: int = 20
    """Write a record of losses every so many iterations."""
    stop_at: int = 0
    """Save and end, as after SIGTERM, at this iteration; a later --resume goes on. 0: run to the end."""


@dataclass(frozen=True)
class InferenceSettings:
    """How a trained detector is run, and what is kept of its output (RN, appendix B: refine, vote_iou, scales)."""

    score_threshold: float = 0.05
    """Detections scored lower are dropped (FR code, TV)."""
    nms_iou: float = 0.3
    """Detections that overlap a better one of their class by more than this are removed (FR 0.3, TV 0.5)."""
    detections: int = 100
    """At most this many detections of an image are kept (FR code, TV)."""
    batch_size: int = 1
    """Images computed at once; only images of equal padded size share a batch, so scores do not depend on it."""
    refine: bool = False
    """Pool every region once more from its regressed box, score and regress it anew, and keep both results."""
    refine_rounds: int = 1
    """How often `refine` does so; the results of all rounds are kept."""
    vote_iou: float = 0.0
    """Each box kept becomes the mean, by score, of its class's boxes of at least this IoU (MR-CNN: 0.5); 0: no vote."""
    scales: tuple[int, ...] = ()
    """Shorter sides of an image pyramid; a region is pooled from the two that suit it best; none: `test_min_size`."""
    flip: bool = False
    """Score and regress each region in the mirrored image too, and take the means."""


APName = Literal["area", "11point", "both"]
"""Which of VOC's two average precisions are meant."""


@dataclass(frozen=True)
class VOCMetricSettings:
    """The PASCAL VOC protocol; the defaults are the devkit's."""

    ap: APName = "both"
    """Area under the precision envelope (VOC2010 and later), mean at 11 recalls (VOC2007), or both."""
    pixels: Literal["inclusive", "continuous"] = "inclusive"
    """A box from xmin to xmax of the file is xmax - xmin + 1 pixels wide (devkit), or xmax - xmin."""
    difficult: Literal["ignore", "drop", "count"] = "ignore"
    """Difficult objects: neither asked for nor punished (devkit), as if not annotated, or as any other."""
    iou: float = 0.5
    """Smallest IoU of a match (devkit: 0.5)."""


@dataclass(frozen=True)
class MetricSettings:
    """How detections are scored."""

    coco_engine: Literal["hotcoco", "pycocotools"] = "hotcoco"
    """What computes COCO's numbers: hotcoco, or pycocotools, the slower reference; both give the same."""
    bootstrap: int = 1000
    """score_det and inspect_det: resamples of the images for the 95 % intervals; 0: no intervals."""
    voc: VOCMetricSettings = field(default_factory=VOCMetricSettings)


@dataclass(frozen=True)
class Config:
    """Settings of a run."""

    backbone: str = "resnet101"
    """resnet18, resnet34, resnet50, resnet101, resnet152, vgg16 or vgg19."""
    weights: str = "imagenet1k_v1"
    """ImageNet weights of the backbone: imagenet1k_v1, imagenet1k_v2, none, or a file."""
    output: str = ""
    """Folder of the run or of the results; empty: a new folder under runs/."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: the GPU if there is one."""
    compile: bool = False
    """Compile trunk and heads (torch.compile): a minute or more at first, then faster; it takes a C++ compiler."""
    seed: int = 0
    """Seed of everything random."""
    resume: str = ""
    """Run folder, or its last.pt, to go on with exactly where it stopped."""
    init_from: str = ""
    """Checkpoint whose weights the run starts from (weights only; classes that it does not know start anew)."""
    wandb: Literal["online", "offline", "disabled"] = "disabled"
    """Whether to log to Weights & Biases too."""
    model: ModelSettings = field(default_factory=ModelSettings)
    data: DataSettings = field(default_factory=DataSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    test: InferenceSettings = field(default_factory=InferenceSettings)
    loc: LocalizationSettings = field(default_factory=LocalizationSettings)
    metric: MetricSettings = field(default_factory=MetricSettings)


def to_dict(config: Any) -> dict[str, Any]:
    """The settings as nested dictionaries of plain values (tuples as lists), for YAML and checkpoints."""
    plain = {}
    for item in dataclasses.fields(config):
        value = getattr(config, item.name)
        if dataclasses.is_dataclass(value):
            value = to_dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        plain[item.name] = value
    return plain


def from_dict(values: dict[str, Any], kind: type = Config) -> Any:
    """The inverse of :func:`to_dict`; missing keys take their defaults.

    Raises:
        UserError: a key is not a setting (a checkpoint of another version, for example).
    """
    known = {item.name: item for item in dataclasses.fields(kind)}
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UserError(f"{kind.__name__} has no setting {', '.join(unknown)}: another version of ResiDet wrote it")
    arguments = {}
    for name, value in values.items():
        inner = known[name].default_factory
        if isinstance(value, dict):
            value = from_dict(value, inner)
        elif isinstance(value, list):
            value = tuple(value)
        arguments[name] = value
    return kind(**arguments)


def overlay(base: Mapping[str, Any], explicit: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `explicit` laid over it, group by group; neither is changed."""
    merged = dict(base)
    for name, value in explicit.items():
        merged[name] = overlay(base.get(name, {}), value) if isinstance(value, Mapping) else value
    return merged
