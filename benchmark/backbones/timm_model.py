"""Any model of timm (Wightman 2019, github.com/huggingface/pytorch-image-models) by its name."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import timm
import torch
from timm.layers import DropPath, PatchDropout
from timm.models import _builder
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.module import _IncompatibleKeys

from benchmark.backbones.base import ImageShape
from benchmark.backbones.timm_backbone import TimmBackbone, placed
from benchmark.backbones.vit import BLOCKS
from benchmark.components import registry
from benchmark.components.options import essential
from benchmark.core.errors import UserError
from benchmark.core.randomness import keyed
from benchmark.norms.factory import SectionNorms

COMPONENT = {
    "name": "timm",
    "version": 2,
    "options": {
        "architecture": "str",
        "arguments": "mapping",
        "stem": "mapping",
        "branch_gain": [0, 1],
        "placement": ["pre", "res-post", "post"],
        "final_norm": ["own", "before-pool", "after-pool", "none"],
        "mlp_norm": "bool",
        "qk_norm": "bool",
    },
    "defaults": {
        "arguments": {},
        "stem": {},
        "branch_gain": 1,
        "placement": "pre",
        "final_norm": "own",
        "mlp_norm": False,
        "qk_norm": False,
    },
    "example": {"architecture": "test_resnet"},
    "normalized": True,
    "weights": True,
}

OWN = {"num_classes", "in_chans", "pretrained", "checkpoint_path", "norm_layer", "features_only"}
"""Arguments of timm that the benchmark sets, or that would replace the norms."""

UNEXPECTED = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")

VIT_LAYOUT: dict[tuple[str, Any], dict[str, Any]] = {
    ("placement", "res-post"): {"block_fn": BLOCKS["res-post"]},
    ("placement", "post"): {"block_fn": BLOCKS["post"]},
    ("final_norm", "before-pool"): {"final_norm": True, "fc_norm": False},
    ("final_norm", "after-pool"): {"final_norm": True, "fc_norm": True},
    ("final_norm", "none"): {"final_norm": False},
    ("mlp_norm", True): {"scale_mlp_norm": True},
    ("qk_norm", True): {"qk_norm": True},
}
"""The arguments of timm's VisionTransformer for where norms are."""

NO_KEYS = _IncompatibleKeys([], [])
"""What loading returns if every tensor has its place."""

REFUSED = (TypeError, ValueError, AssertionError, RuntimeError, KeyError, AttributeError)
"""What timm raises for arguments or images that a model cannot have."""

EVA_LAYOUT: dict[tuple[str, Any], dict[str, Any]] = {
    ("placement", "res-post"): {"use_post_norm": True},
    ("mlp_norm", True): {"scale_mlp": True},
    ("qk_norm", True): {"qk_norm": True},
}
"""The arguments of timm's Eva, the class of DINOv3's ViTs."""


def build(
    shape: ImageShape,
    norms: SectionNorms,
    architecture: str,
    arguments: Mapping[str, Any],
    stem: Mapping[str, Any],
    branch_gain: int,
    **layout: Any,
) -> TimmModel:
    """A model of timm with the scheme's norms in place of its own.

    `arguments` are timm's. `stem` changes the first convolution and the pooling after it (`kernel`,
    `stride`, `pool`), for small images. `layout` says where norms are in a vision transformer, as in the
    backbone `vit`. `branch_gain` is the initial scale of the last norm of each residual branch, 1 or 0,
    in place of timm's own.
    """
    whole = dict(arguments)

    def make(**more: Any) -> TimmModel:
        net = _create(architecture, whole, shape, **more)
        if stem:
            _change_stem(net, stem)
        return TimmModel(net, shape)

    try:
        _check_arguments(arguments)
        whole |= _layout(architecture, arguments, shape, layout)
        made = placed(make, norms, branch_gain)
    except UserError as error:
        raise UserError(f"backbone {architecture}: {error}") from None
    except REFUSED as error:
        sides = "×".join(map(str, shape))
        raise UserError(f"backbone {architecture} cannot embed {sides} images: {error}") from None
    made.make = make
    classifier = made.net.pretrained_cfg.get("classifier") or ()
    paths = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    tops = {name.partition(".")[0] for name in made.net.state_dict()}
    # Of `head.linear` all of the head, if the model has none without classes.
    made.classifiers = tuple(p if (top := p.partition(".")[0]) in tops else top for p in paths)
    made.like = architecture, made.net._model_args
    return made


class TimmModel(TimmBackbone):
    """A model of timm, which draws its initial weights as timm does."""

    make: Any
    """Builds the model again, with norms of its own."""

    @torch.no_grad()
    def draw(self, seed: int) -> set[nn.Parameter]:
        """Draws the weights outside norms as timm does, in one stream keyed by the seed.

        The stream does not depend on the norms, which draw nothing: seeds are paired over schemes.
        """
        generator = keyed(seed, "weights", "timm")
        state = int(torch.randint(2**62, (), generator=generator, device="cpu"))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(state)
            drawn = dict(self.make().net.named_parameters())
        inside = tuple(f"{site.path}." for site in self.sites.norms)
        own = dict(self.net.named_parameters())
        for name, parameter in own.items():
            if name in drawn and not name.startswith(inside):
                parameter.copy_(drawn[name])
        return set(own.values())

    def converted(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file as timm loads them into the model with these images.

        timm converts names of other programs, the first convolution to other channels and positions to
        other sizes. What it cannot convert is returned as it is. Raises UserError if timm builds the
        model differently for its own weights.
        """
        found: dict[str, Tensor] = {}

        def record(model: Any, *, pretrained_cfg: dict[str, Any], **settings: Any) -> None:
            """In the place of timm's loading: stops before the tensors are copied into the model."""
            for site in self.sites.norms:
                eps = getattr(model.get_submodule(site.path), "eps", site.eps)
                if eps != site.eps:
                    raise UserError(
                        f"timm's model has an eps of {eps} with weights, not {site.eps}"
                    )
            model.load_state_dict = lambda state, strict=True: found.update(state) or NO_KEYS
            # Without the classes of its own file timm leaves the classifier alone.
            source = {"state_dict": dict(state), "num_classes": 0, "label_offset": 0}
            try:
                with torch.device("cpu"):
                    load_pretrained(model, pretrained_cfg=pretrained_cfg | source, **settings)
            except REFUSED:
                found.update(state)

        load_pretrained, logger = _builder.load_pretrained, logging.getLogger("timm")
        level = logger.level
        # The conversion of a model is known only inside of the function that builds it.
        _builder.load_pretrained = record  # type: ignore[assignment]  # timm calls it with keywords
        logger.setLevel(logging.ERROR)  # `weights.load` states what changes
        try:
            with torch.device("meta"):
                self.make(pretrained=True)
        finally:
            _builder.load_pretrained = load_pretrained
            logger.setLevel(level)
        return found


def _check_arguments(arguments: Mapping[str, Any]) -> None:
    for name, value in arguments.items():
        if name in OWN:
            raise UserError(
                f"{name} cannot be an argument: the track's images or the scheme decide it"
            )
        if "drop" in name and value:
            raise UserError(
                f"{name} is {value!r}, expected 0: random layers would look like a dependence on other "
                "images of the batch"
            )


def _create(architecture: str, arguments: Mapping[str, Any], shape: ImageShape, **more: Any) -> Any:
    """timm's model with its own norms, without random layers; `more` are arguments of the factory."""
    sides = (shape.height, shape.width)
    given = {"img_size": sides, **arguments}
    size = given["img_size"]
    if tuple(size if isinstance(size, list | tuple) else (size, size)) != sides:
        raise UserError(f"img_size is {size!r}, and the images are {sides[0]}×{sides[1]}")
    settings: dict[str, Any] = {"num_classes": 0, "in_chans": shape.channels, **more}
    try:
        try:
            net: Any = timm.create_model(architecture, **settings | given)
        except TypeError as error:
            # Most models that take images of any size have no such argument.
            if "img_size" in arguments or "'img_size'" not in str(error):
                raise
            net = timm.create_model(architecture, **settings, **arguments)
    except REFUSED as error:
        if match := UNEXPECTED.search(str(error)):
            raise UserError(
                f"timm's {match[1]} takes no argument {match[2]!r} (given: {', '.join(arguments)})"
            ) from None
        raise UserError(f"timm refuses the arguments {dict(arguments)}: {error}") from None
    for module in net.modules():
        if isinstance(module, DropPath):
            module.drop_prob = 0.0
        elif isinstance(module, _DropoutNd):
            module.p = 0.0
        elif isinstance(module, PatchDropout):
            module.prob = 0.0
        if isinstance(getattr(module, "drop_rate", None), float):
            module.drop_rate = 0.0  # for networks that call dropout as a function
    if isinstance(net, VisionTransformer):
        net.patch_embed.strict_img_size = False
    return net


def _layout(
    architecture: str, arguments: Mapping[str, Any], shape: ImageShape, layout: Mapping[str, Any]
) -> dict[str, Any]:
    """The arguments of timm for where norms are."""
    asked = essential(layout, registry.facts("backbone", "timm")["defaults"])
    if not asked:
        return {}
    with torch.device("meta"):
        net = _create(architecture, arguments, shape)
    kind = type(net).__name__
    known = {"VisionTransformer": VIT_LAYOUT, "Eva": EVA_LAYOUT}.get(kind, {})
    if isinstance(net, VisionTransformer) and type(net.blocks[0]) is not Block:
        known = {}
    found: dict[str, Any] = {}
    for key, value in asked.items():
        if (key, value) not in known:
            raise UserError(f"{key} {value} is not defined for timm's {kind} ({_defined(known)})")
        found |= known[key, value]
    return found


def _defined(known: Mapping[tuple[str, Any], Any]) -> str:
    if not known:
        return "only for plain ViTs"
    return "defined: " + ", ".join(f"{key} {value}" for key, value in known)


def _change_stem(net: Any, stem: Mapping[str, Any]) -> None:
    """Gives the first convolution another kernel and stride, and leaves out the pooling after it."""
    path = net.pretrained_cfg.get("first_conv")
    conv = net.get_submodule(path) if isinstance(path, str) else None
    if not isinstance(conv, nn.Conv2d):
        raise UserError("stem: the model has no first convolution that could change")
    if "patch_embed" in path:
        raise UserError("stem: the model embeds patches; set `arguments: {patch_size: …}` instead")
    kernel, stride = stem.get("kernel", conv.kernel_size[0]), stem.get("stride", conv.stride[0])
    # Patches that do not overlap need no border.
    padding = 0 if kernel == stride else kernel // 2
    changed = type(conv)(
        conv.in_channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None
    )
    nn.init.kaiming_normal_(changed.weight, mode="fan_out", nonlinearity="relu")
    if changed.bias is not None:
        nn.init.zeros_(changed.bias)
    net.set_submodule(path, changed)
    if stem.get("pool") is False:
        pools = [name for name, module in net.named_modules() if isinstance(module, nn.MaxPool2d)]
        if not pools:
            raise UserError("stem: pool is false, and the model has no pooling to leave out")
        net.set_submodule(pools[0], nn.Identity())
