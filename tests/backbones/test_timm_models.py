"""Any model of timm: its norms are found, put back to the bit, and replaced."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import Any

import pytest
import timm
import torch
from timm.layers import LayerNorm2d
from torch import nn

from benchmark.backbones import timm_model
from benchmark.backbones.base import ImageShape, MaskedBackbone, random_mask
from benchmark.backbones.place import MapLast, NormAct
from benchmark.backbones.sites import is_norm
from benchmark.backbones.timm_model import TimmModel
from benchmark.cli.sites import listing
from benchmark.components import registry, timm_models
from benchmark.config.presets import UNIFORM
from benchmark.core.errors import UserError
from benchmark.norms.factory import SectionNorms, SkipInit
from tests.golden.sites import FOLDER, IMAGES

SMALL = {
    "test_resnet": 64, "test_byobnet": 64, "test_efficientnet": 64, "test_convnext": 64,
    "test_vit": 64, "test_vit2": 64, "test_nfnet": 64,
}  # fmt: skip
"""timm's own tiny models, and images large enough that no map is a single position but the pool's."""
OWN = {"own": {"norm": "own"}}
QUICK = (
    "resnet18", "regnety_008", "efficientnet_b0", "convnextv2_tiny", "vit_tiny_patch16_224",
    "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224",
)  # fmt: skip
SIDES = {"vit_small_patch14_reg4_dinov2": 56, "swin_tiny_patch4_window7_224": 224}
"""Sides of images that a model's patches and windows divide; 64 for others."""


def backbone(model: str, norm: str | dict, side: int = 64, **options) -> TimmModel:
    spec = norm if isinstance(norm, dict) else (UNIFORM | OWN)[norm]
    shape = ImageShape(3, side, side)
    given = {"architecture": model, **options}
    return registry.build("backbone", "timm", shape, SectionNorms("backbone", spec), **given)


def blank(model: str, norm: str | dict, side: int = 64, **options) -> TimmModel:
    with torch.device("meta"):
        return backbone(model, norm, side, **options)


def images(side: int, n: int = 4) -> torch.Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(0))


def theirs(model: str, side: int) -> nn.Module:
    """timm's model without random layers, no parameter at its initial value."""
    sized: dict[str, Any] = (
        {"img_size": side} if any(kind in model for kind in ("vit", "deit", "swin")) else {}
    )
    net = timm.create_model(model, num_classes=0, drop_path_rate=0.0, **sized)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return net


def names(found: TimmModel) -> dict[str, str]:
    """The name of each tensor by the one that it has in timm, where a norm contains its activation."""
    wrapped = tuple(
        f"{site.path}.norm." for site in found.sites.norms
        if isinstance(found.net.get_submodule(site.path), NormAct)
    )  # fmt: skip
    return {
        key.replace(".norm.", ".") if key.startswith(wrapped) else key: key
        for key in found.net.state_dict()
    }


def load(found: TimmModel, net: nn.Module) -> dict[str, str]:
    """Gives a backbone the weights of timm's model; returns the names."""
    known = names(found)
    assert list(known) == list(net.state_dict())
    found.net.load_state_dict({known[key]: value for key, value in net.state_dict().items()})
    return known


@pytest.mark.parametrize(
    "model", [pytest.param(m, marks=() if m in QUICK else pytest.mark.slow) for m in IMAGES]
)
def test_with_its_own_norms_it_is_timms_to_the_bit(model):
    side = SIDES.get(model, 64)
    if model == "maxvit_tiny_tf_224":
        side = 224
    expected, found = theirs(model, side), backbone(model, "own", side)
    known = load(found, expected)
    x = images(side, 2)
    for training in (True, False):
        expected.train(training)
        found.train(training)
        with torch.no_grad():
            z = expected.forward_head(expected.forward_features(x), pre_logits=True)
            assert torch.equal(found.features(x)["pooled"], z)
        state = found.net.state_dict()
        assert all(torch.equal(state[known[key]], v) for key, v in expected.state_dict().items())
    assert found.width == z.shape[1]


@pytest.mark.parametrize(
    ("model", "norm"),
    [("test_resnet", "bn"), ("test_vit", "ln"), ("test_efficientnet", "bn"), ("test_vit2", "ln")],
)
def test_with_the_factorys_layer_of_its_own_norm_it_is_timms(model, norm):
    expected, found = theirs(model, 64), backbone(model, norm)
    load(found, expected)
    for training in (True, False):
        expected.train(training)
        found.train(training)
        with torch.no_grad():
            z = expected.forward_head(expected.forward_features(images(64)), pre_logits=True)
            assert torch.equal(found.features(images(64))["pooled"], z)


@pytest.mark.parametrize("model", IMAGES)
def test_sites_are_those_of_the_golden_list(model):
    written = (FOLDER / f"{model}.txt").read_text(encoding="utf-8")
    assert "\n".join(listing(blank(model, "own", IMAGES[model]))) + "\n" == written, (
        "run `python -m tests.golden.sites`"
    )


@pytest.mark.parametrize("model", IMAGES)
def test_every_norm_of_the_model_is_a_site(model):
    with torch.device("meta"):
        net = timm.create_model(model, num_classes=0)
    kinds = (nn.BatchNorm2d, nn.LayerNorm)  # and their subclasses: all that these models have
    expected = {name for name, module in net.named_modules() if isinstance(module, kinds)}
    found = [site.path for site in blank(model, "own", IMAGES[model]).sites.norms]
    assert len(found) == len(set(found))
    assert set(found) == expected


@pytest.mark.parametrize(
    "model",
    [
        *SMALL,
        *(
            pytest.param(f"{m}_224", marks=pytest.mark.slow)
            for m in ("swin_tiny_patch4_window7", "maxvit_tiny_tf")
        ),
    ],
)
@pytest.mark.parametrize("norm", UNIFORM)
def test_no_own_norm_is_left_and_no_layer_is_shared(model, norm):
    side = SMALL.get(model, 224)
    if reason := refused(model, norm):
        with pytest.raises(UserError, match=reason):
            blank(model, norm, side)
        return
    found = blank(model, norm, side)
    own = {site.path: site.kind for site in found.sites.norms}
    for path in own:
        placed = found.net.get_submodule(path)
        while isinstance(placed, MapLast | NormAct):
            placed = placed.norm
        # The factory's classes are torch's, timm's FRN and EvoNorm, and the benchmark's.
        assert type(placed) is not LayerNorm2d
        assert type(placed).__module__ not in ("timm.layers.norm", "timm.layers.norm_act")
    modules = [m for m in found.net.modules() if is_norm(m)]
    kinds = Counter(type(module).__name__ for module in modules)
    assert len(kinds) <= 2, kinds  # one norm, with a form for tokens and one for maps
    if norm.startswith("none"):
        assert not modules
    owners = [id(m) for _, m in found.net.named_modules(remove_duplicate=False) if is_norm(m)]
    assert len(owners) == len(set(owners))


WITH_CLASS_TOKEN = {"test_vit", "vit_tiny_patch16_224", "vit_small_patch16_dinov3"}
"""Those of the models here whose tokens begin with one."""


def refused(model: str, norm: str) -> str:
    """Why a norm cannot be in a model."""
    if model == "test_nfnet":
        return "no norms"
    tokens = "vit" in model or "swin" in model
    if tokens and norm in ("in", "frn"):
        return "normalizes over the positions of a map"
    if tokens and norm == "evonorm-s0":
        return "replaces a norm and its activation"
    if norm == "sepnorm" and model not in WITH_CLASS_TOKEN:
        return "begin with a class token"
    if model == "test_efficientnet" and norm == "none-skipinit":
        return "the network has no residual branch"
    if model == "test_convnext" and norm in ("in", "frn"):
        return "1×1 map"
    if model == "test_convnext" and norm == "evonorm-s0":
        return "none follows any of its sites"
    return ""


TRAINABLE = [
    (model, norm) for model in SMALL for norm in [*UNIFORM, "own"] if not refused(model, norm)
]


@pytest.mark.parametrize(("model", "norm"), TRAINABLE)
def test_every_parameter_gets_a_gradient(model, norm):
    found = backbone(model, norm).train()
    found.features(images(64, 16))["pooled"].square().sum().backward()  # two in a group of BN
    for name, parameter in found.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name


@pytest.mark.parametrize(
    ("model", "norm"),
    [
        (m, n) for m, n in TRAINABLE
        if n != "own" and not registry.facts("norm", UNIFORM[n]["norm"])["batch_dependent"]
    ],
)  # fmt: skip
def test_an_image_is_embedded_without_the_others(model, norm):
    found = backbone(model, norm).train()
    with torch.no_grad():
        for gain in (m.gain for m in found.modules() if isinstance(m, SkipInit)):
            gain.fill_(0.5)
        x = images(64)
        together, alone = found(x), found(x[:1])
        torch.testing.assert_close(together[:1], alone, rtol=1e-3, atol=1e-4)
        assert not torch.equal(together[0], together[1])


def test_batch_norm_is_not_an_image_alone():
    found = backbone("test_resnet", "bn").train()
    x = images(64)
    assert not torch.allclose(found(x)[:2], found(x[:2]), atol=1e-3)


def test_weights_are_timms_paired_over_norms_and_different_by_seed():
    torch.manual_seed(3)
    with torch.random.fork_rng():
        states = {}
        for norm, seed in [("bn", 0), ("none-skipinit", 0), ("gn-ws", 0), ("bn", 1)]:
            found = backbone("test_resnet", norm)
            drawn = found.draw(seed)
            assert drawn == set(found.net.parameters())
            states[norm, seed] = {
                name: value for name, value in found.net.state_dict().items() if value.ndim == 4
            }
    first = states["bn", 0]
    assert first
    for norm in ("none-skipinit", "gn-ws"):
        assert all(torch.equal(states[norm, 0][name], value) for name, value in first.items())
    assert not any(torch.equal(states["bn", 1][name], value) for name, value in first.items())
    deviation = float(first["layer1.0.conv1.weight"].std())
    fan_out = first["layer1.0.conv1.weight"].shape[0] * 9
    assert abs(deviation - (2 / fan_out) ** 0.5) < 0.1 * deviation  # timm's ResNet: He, fan-out


@pytest.mark.parametrize("gain", [0, 1])
def test_the_last_norm_of_each_branch_starts_at_the_gain(gain):
    found = backbone("test_resnet", "bn", branch_gain=gain)
    ends = {site.path for site in found.sites.norms if "branch-end" in site.parts}
    assert len(ends) == len(found.sites.branch_ends) > 0
    for site in found.sites.norms:
        weight = found.net.get_submodule(site.path).weight
        assert bool((weight == (gain if site.path in ends else 1)).all())


@pytest.mark.parametrize("norm", ["ln", "bn", "ghost-bn"])
def test_branches_of_tokens_start_at_zero_whatever_holds_the_norm(norm):
    """Of a transformer whose branches end in a norm: layers over all tokens, or over channels first."""
    found = backbone("vit_relpos_small_patch16_rpn_224", norm, branch_gain=0)
    ends = [site for site in found.sites.norms if "branch-end" in site.parts]
    assert len(ends) == 24
    for site in ends:
        scales = dict(found.net.get_submodule(site.path).named_parameters())
        (weight,) = (scale for name, scale in scales.items() if name.endswith("weight"))
        assert not weight.any()


@pytest.mark.parametrize("model", [m for m in SMALL if not refused(m, "none-skipinit")])
def test_skipinit_switches_every_branch_off(model):
    found = backbone(model, "none-skipinit").eval()
    gains = [m for m in found.net.modules() if isinstance(m, SkipInit)]
    assert len(gains) == len(found.sites.branch_ends) > 0
    x = images(64)
    before = found(x)
    with torch.no_grad():
        blocks = tuple(f"{end.path.rpartition('.')[0]}." for end in found.sites.branch_ends)
        for name, parameter in found.net.named_parameters():
            # In a block all is on the branch but what is on the shortcut.
            beside = any(part in name for part in ("downsample", "shortcut", "gain", "bias"))
            if name.startswith(blocks) and not beside:
                parameter.add_(torch.randn_like(parameter))
    torch.testing.assert_close(found(x), before)
    for gain in gains:
        gain.gain.data.fill_(1.0)
    assert not torch.allclose(found(x), before, atol=1e-3)


PARTS = [
    ("stem", ["conv1.1", "conv1.4", "bn1"]),
    ("stage4", [f"layer4.0.{name}" for name in ("bn1", "bn2", "downsample.2")]),
    ("downsample", [f"layer{n}.0.downsample.2" for n in (2, 3, 4)]),
    ("branch-end", ["layer1.0.bn2", "layer2.0.bn2", "layer3.0.bn3", "layer4.0.bn2"]),
    ("layer[12].*.bn1", ["layer1.0.bn1", "layer2.0.bn1"]),
]


@pytest.mark.parametrize(("pattern", "expected"), PARTS)
def test_a_part_of_the_backbone_has_its_own_norm(pattern, expected):
    spec = {"norm": "bn", "parts": [{"sites": pattern, "norm": "gn", "groups": 4}]}
    found = blank("test_resnet", spec)
    changed = [
        s.path
        for s in found.sites.norms
        if isinstance(found.net.get_submodule(s.path), nn.GroupNorm)
    ]
    assert changed == expected


def test_the_first_pattern_that_fits_decides():
    parts = [{"sites": "stage4", "norm": "none-skipinit"}, {"sites": "layer*", "norm": "in"}]
    found = blank("test_resnet", {"norm": "bn", "parts": parts})
    kinds = {s.path: type(found.net.get_submodule(s.path)).__name__ for s in found.sites.norms}
    assert kinds["bn1"] == "BatchNorm2d"
    assert {kinds[p] for p in kinds if p.startswith(("layer1", "layer2", "layer3"))} == {
        "InstanceNorm2d"
    }
    assert {kinds[p] for p in kinds if p.startswith("layer4")} == {"Bias"}
    scaled = [name for name, m in found.net.named_modules() if isinstance(m, SkipInit)]
    assert scaled == ["layer4.0.drop_path"]


BAD = [
    ("test_resnet", "bn", {"arguments": {"nothing": 1}}, "takes no argument 'nothing'"),
    ("test_resnet", "bn", {"arguments": {"num_classes": 10}}, "num_classes cannot be an argument"),
    (
        "test_resnet",
        "bn",
        {"arguments": {"drop_path_rate": 0.1}},
        "drop_path_rate is 0.1, expected 0",
    ),
    ("test_vit", "ln", {"arguments": {"patch_size": 5}}, "should be divisible by patch size"),
    ("test_vit", "ln", {"arguments": {"img_size": 32}}, "img_size is 32, and the images are 64×64"),
    ("test_vit", "ln", {"stem": {"kernel": 3}}, "embeds patches; set `arguments: {patch_size: …}`"),
    ("test_convnext", "ln", {"stem": {"pool": False}}, "has no pooling to leave out"),
    ("test_resnet", "bn", {"placement": "post"}, "placement post is not defined for timm's ResNet"),
    ("test_vit", "ln", {"branch_gain": 0}, "no norm of the network ends a residual branch"),
    ("test_nfnet", "bn", {}, "the network has no norms"),
    (
        "vgg11_bn",
        "none-skipinit",
        {},
        "scales residual branches: the network has no residual branch",
    ),
    ("dla34", "none-skipinit", {}, "has no place to scale its branch"),
    (
        "test_resnet",
        {"norm": "bn", "parts": [{"sites": "layer9.*", "norm": "ln"}]},
        {},
        "'layer9.*'",
    ),
    (
        "test_resnet",
        {"norm": "gn", "groups": 7},
        {},
        "at conv1.1 of the backbone .*groups 7 do not divide",
    ),
]


@pytest.mark.parametrize(("model", "norm", "options", "said"), BAD)
def test_what_cannot_be_built_is_refused_in_one_line(model, norm, options, said):
    with pytest.raises(UserError, match=said) as refusal:
        blank(model, norm, **options)
    assert str(refusal.value).startswith(f"backbone {model}")
    assert "\n" not in str(refusal.value)


def test_names_are_timms():
    assert timm_models.names() == set(timm.list_models())
    with pytest.raises(UserError, match="unknown model 'resnet5O'; did you mean resnet50"):
        timm_models.check("resnet5O", frozenset({"resnet"}))


def test_a_stem_for_small_images():
    found = blank("resnet18", "bn", 32, stem={"kernel": 3, "stride": 1, "pool": False})
    conv = found.net.conv1
    assert (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    assert isinstance(found.net.maxpool, nn.Identity)
    positions = {site.parts[0]: site.positions for site in found.sites.norms}
    assert positions == {
        "stem": 32**2,
        "stage1": 32**2,
        "stage2": 16**2,
        "stage3": 8**2,
        "stage4": 4**2,
    }


def test_norms_of_a_vision_transformer_are_where_the_layout_says():
    expected = backbone("test_vit", "ln", arguments={"qk_norm": True, "scale_mlp_norm": True})
    found = backbone("test_vit", "ln", qk_norm=True, mlp_norm=True)
    assert [s.path for s in found.sites.norms] == [s.path for s in expected.sites.norms]
    assert any("q_norm" in site.path for site in found.sites.norms)
    assert any("mlp.norm" in site.path for site in found.sites.norms)
    post = blank("test_vit", "ln", placement="res-post")
    ends = [site.path for site in post.sites.norms if "branch-end" in site.parts]
    assert len(ends) == len(post.sites.branch_ends)
    without = blank("test_vit", "ln", final_norm="none")
    assert not any("final" in site.parts for site in without.sites.norms)


def test_readouts_of_a_vision_transformer():
    registers = backbone("vit_small_patch14_reg4_dinov2", "own", 28, arguments={"depth": 1})
    found = registers.features(images(28, 2))
    tokens = registers.net.forward_features(images(28, 2))
    assert list(found) == ["pooled", "patch_mean", "register_mean"]
    torch.testing.assert_close(found["pooled"], tokens[:, 0])
    torch.testing.assert_close(found["register_mean"], tokens[:, 1:5].mean(1))
    torch.testing.assert_close(found["patch_mean"], tokens[:, 5:].mean(1))
    pooled = backbone("test_vit", "ln", arguments={"global_pool": "avg", "fc_norm": False})
    assert list(pooled.features(images(64, 2))) == ["pooled", "class_token"]


MASKABLE = {
    "test_resnet": None, "test_efficientnet": None, "test_convnext": None, "test_vit": None,
    "mobilenetv3_large_100": "layers after the map (conv_head)",
    "vit_small_patch16_dinov3": "a Eva returns neither a map nor the tokens of a plain ViT",
    "swin_tiny_patch4_window7_224": None,
}  # fmt: skip


@pytest.mark.parametrize(("model", "reason"), MASKABLE.items())
def test_masked_training_says_which_backbones_it_can_mask(model, reason):
    side = 224 if "swin" in model else 64
    found = backbone(model, "own", side) if reason is None else blank(model, "own", side)
    assert isinstance(found, MaskedBackbone)
    patch = found.net.patch_embed.patch_size[0] if "test_vit" in model else 16
    if reason is not None:
        with pytest.raises(UserError, match="method mae: ") as refusal:
            found.prepare_masking(patch)
        assert reason in str(refusal.value)
        return
    found.prepare_masking(patch)
    decoder = found.decoder(SectionNorms("decoder", {"norm": "ln"}), 8, patch)
    grid = side // patch
    mask = random_mask(2, grid, 0.5, patch, torch.Generator().manual_seed(0))
    x = images(side, 2)
    made = decoder(found.encode_masked(x, mask), mask)
    assert made.shape == (2, grid**2, patch**2 * 3)
    hidden = copy.deepcopy(x)
    pixels = (
        mask.hidden.view(2, 1, grid, grid).repeat_interleave(patch, 2).repeat_interleave(patch, 3)
    )
    hidden[pixels.expand_as(x)] = 9.0
    torch.testing.assert_close(decoder(found.encode_masked(hidden, mask), mask), made)


def test_a_model_of_timm_is_known_by_the_component():
    facts = registry.facts("backbone", "timm")
    assert json.dumps(facts["defaults"])
    assert timm_model.COMPONENT["version"] == facts["version"]


@pytest.mark.parametrize("options", [{}, {"no_embed_class": True}, {"reg_tokens": 2}])
def test_a_vit_takes_images_of_another_size(options):
    """As timm does with resampled positions."""
    found = backbone("test_vit", "own", 64, arguments=options)
    expected = timm.create_model(
        "test_vit", num_classes=0, img_size=64, dynamic_img_size=True, **options
    )
    expected.load_state_dict(found.net.state_dict())
    x = images(32)
    z = expected.forward_head(expected.forward_features(x), pre_logits=True)
    torch.testing.assert_close(found(x), z)
    with pytest.raises(UserError, match="takes images of one size"):
        backbone("deit_tiny_distilled_patch16_224", "own", 64)(x)


@pytest.mark.parametrize(
    ("model", "count"),
    [
        ("test_vit", 1 + 100), ("vit_small_patch14_reg4_dinov2", 1 + 4 + 16),
        ("vit_small_patch16_dinov3", 1 + 4 + 16), ("beit_base_patch16_224", 1 + 16),
        ("test_vit2", 0), ("swin_tiny_patch4_window7_224", 0), ("resnet18", 0),
    ],
)  # fmt: skip
def test_the_first_token_of_a_sequence_is_the_class_token_where_a_site_says_so(model, count):
    """Its parameter moves the first token alone that enters the first norm."""
    side = 160 if model == "test_vit" else SIDES.get(model, 64)
    found = backbone(model, "own", side).eval()
    sites = [site for site in found.sites.norms if site.class_token]
    assert {site.sample[0] for site in sites} == ({count} if count else set())
    if not count:
        return
    inputs: list[torch.Tensor] = []
    first = found.net.get_submodule(found.sites.norms[0].path)
    first.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with torch.no_grad():
        found(images(side, 2))
        found.net.cls_token.add_(1)
        found(images(side, 2))
    moved = (inputs[1] - inputs[0]).abs().amax(2) > 0
    assert bool(moved[:, 0].all())
    assert not moved[:, 1:].any()
