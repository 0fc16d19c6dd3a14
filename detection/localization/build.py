"""Settings in, localizer out."""

from backbones import BackboneError, BackboneSettings, build_backbone
from detection.config import Config
from detection.errors import UserError
from detection.localization.localizer import Localizer


def build_localizer(config: Config, num_classes: int, *, load_weights: bool = True) -> tuple[Localizer, str]:
    """The localizer that `config` describes, and one line on the weights its backbone starts from.

    A ResNet runs conv5 on the whole map unless `loc.layer` is conv4. VGG runs fc6 and fc7 for pcr and rcnn. A part of
    the backbone that does not run is left out.

    Args:
        num_classes: K.
        load_weights: False when a checkpoint will replace every tensor.

    Raises:
        UserError: the backbone, the layer, the normalization and the weights do not go together.
    """
    model, loc = config.model, config.loc
    is_vgg = config.backbone.startswith("vgg")
    if is_vgg and loc.layer == "conv4":
        raise UserError(f"loc.layer conv4: {config.backbone} is read after conv5_3; use conv5, or a ResNet")
    settings = BackboneSettings(
        name=config.backbone,
        head="fc" if is_vgg else "c4",
        norm=model.norm,
        weights=config.weights,
        freeze_at=model.freeze_at,
        dropout=loc.dropout,
    )
    try:
        trunk, tail, report = build_backbone(settings, load_weights=load_weights)
    except BackboneError as error:
        raise UserError(str(error)) from error
    has_tail = loc.method != "rpn" if is_vgg else loc.layer == "conv5"
    return Localizer(trunk, tail if has_tail else None, num_classes, config), report
