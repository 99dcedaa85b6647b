"""What each method does with its views before the loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmark.backbones.base import random_mask
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw, keyed
from benchmark.evaluation.features import reestimate
from benchmark.methods.heads import mlp
from benchmark.methods.losses import nt_xent
from benchmark.norms.bases import batch_norms
from tests.helpers.small import (
    BACKBONES,
    BATCH,
    NORMS,
    SIDE,
    TRAINED,
    batch,
    build,
    images,
    legal,
    norms,
    stir,
)


class Seen(nn.Module):
    """Keeps what it was given; embeds an image as it is."""

    def forward(self, x):
        self.given = x
        return x.flatten(1)[:, :16]


def rotated(rotations, n=BATCH):
    """A batch, the images that the network saw for it, and the classes they were given."""
    network = build("rotation", "resnet", "ln", rotations=rotations)
    network.backbone = Seen()
    network.classifier = nn.Identity()
    logged = {}

    def classification(logits, target):
        logged["target"] = target
        return logits.sum(), torch.zeros(())

    given = batch("rotation", n=n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmark.methods.rotation.classification", classification)
        network(given)
    return given, network.backbone.given, logged["target"]


@pytest.mark.parametrize("rotations", [1, 4])
def test_class_is_the_number_of_quarter_turns_counter_clockwise(rotations):
    given, seen, target = rotated(rotations, n=40)
    assert len(seen) == len(target) == 40 * rotations
    counts = target.bincount(minlength=4)
    assert counts.tolist() == [40] * 4 if rotations == 4 else int(counts.min()) >= 3
    for place, turns in enumerate(target.tolist()):
        image = given.views[0][place // rotations]
        for _ in range(turns):  # the right edge comes to the top: (r, c) was at (c, last - r)
            image = image.transpose(1, 2).flip(1)
        assert torch.equal(seen[place], image)
    if rotations == 4:
        for image in range(40):
            assert sorted(target[4 * image : 4 * image + 4].tolist()) == [0, 1, 2, 3]


def test_turns_are_drawn_anew_each_step():
    network = build("rotation", "resnet", "ln")
    first, again = (network(batch("rotation")).loss for _ in range(2))
    assert torch.equal(first, again)
    later = batch("rotation")._replace(draw=batch("rotation", 1).draw)
    assert not torch.equal(network(later).loss, first)


def test_untrained_head_guesses_turns_at_chance():
    network = build("rotation", "resnet", "ln", rotations=4)
    nn.init.zeros_(network.classifier.weight)
    outcome = network(batch("rotation"))
    assert float(outcome.loss.detach()) == pytest.approx(torch.tensor(4.0).log().item())
    assert float(outcome.pretext) == pytest.approx(0.25)


@pytest.mark.parametrize("batching", ["separate", "joint"])
def test_simclr_views_share_a_bn_batch_if_so_declared(batching):
    network = build("simclr", "resnet", "bn", training={"view_batching": batching}).train()
    stir(network)
    given = batch("simclr")
    whole = nn.Sequential(network.backbone, network.projector)
    if batching == "separate":
        first, second = whole(given.views[0]), whole(given.views[1])
    else:
        both = whole(torch.cat((given.views[0], given.views[1])))
        first, second = both[:BATCH], both[BATCH:]
    loss, accuracy = nt_xent(first, second, 0.2)
    outcome = network(given)
    torch.testing.assert_close(outcome.loss, loss)
    torch.testing.assert_close(outcome.pretext, accuracy)


def test_supervised_is_cross_entropy_of_the_embedding():
    network = build("supervised", "vit", "ln")
    given = batch("supervised")
    logits = network.classifier(network.backbone(given.views[0]))
    assert logits.shape == (BATCH, 5)
    torch.testing.assert_close(network(given).loss, F.cross_entropy(logits, given.labels))


@pytest.mark.parametrize("backbone", ["resnet", "vit"])
@pytest.mark.parametrize("normalize", [False, True])
def test_mae_rebuilds_the_pixels_of_hidden_patches(backbone, normalize):
    network = build("mae", backbone, "ln", normalize_target=normalize)
    stir(network)
    given = batch("mae")
    (view,) = given.views
    mask = random_mask(BATCH, 4, 0.75, 4, given.draw.generator("mask"))
    prediction = network.decoder(network.backbone.encode_masked(view, mask), mask)
    errors = []
    for image in range(BATCH):
        for place in torch.nonzero(mask.hidden[image]).flatten().tolist():
            top, left = 4 * (place // 4), 4 * (place % 4)
            patch = view[image, :, top : top + 4, left : left + 4].permute(1, 2, 0).flatten()
            if normalize:  # as the authors' code: unbiased, over the pixels and channels of a patch
                variance = ((patch - patch.mean()) ** 2).sum() / (48 - 1)
                patch = (patch - patch.mean()) / (variance + 1e-6).sqrt()
            errors.append(((prediction[image, place] - patch) ** 2).mean())
    assert len(errors) == BATCH * 12
    outcome = network(given)
    torch.testing.assert_close(outcome.loss, torch.stack(errors).mean())
    assert outcome.pretext is None


@pytest.mark.parametrize(("backbone", "patch"), [("resnet", 5), ("vit", 8)])
def test_mae_patch_that_does_not_fit_is_refused(backbone, patch):
    with pytest.raises(UserError, match=f"method mae: patch {patch}"):
        build("mae", backbone, "ln", patch=patch)


@pytest.mark.parametrize("norm", ["bn", "none-plain"])
def test_head_has_one_bias_for_each_layer(norm):
    head = mlp([6, 5, 4, 3], norms(norm, "projector"))
    kinds = [type(m).__name__ for m in head]
    inner = "BatchNorm1d" if norm == "bn" else "Bias"
    assert kinds == ["Linear", inner, "ReLU"] * 2 + ["Linear"]
    assert [p.shape[0] for name, p in head.named_parameters() if "bias" in name] == [5, 4, 3]
    assert head(torch.randn(4, 6)).shape == (4, 3)


@pytest.mark.parametrize(
    ("last", "biases", "scales"),
    [("bias", 2, 1), ("none", 1, 1), ("norm", 2, 2), ("norm without affine", 1, 1)],
)
def test_what_a_head_ends_in(last, biases, scales):
    """Counted over a hidden layer with its norm and the last layer."""
    head = mlp([6, 5, 3], norms("bn", "projector"), last, activation=nn.GELU).train()
    linear, *end = list(head)[3:]
    assert isinstance(head[2], nn.GELU)
    assert [type(m).__name__ for m in end] == (["BatchNorm1d"] if "norm" in last else [])
    assert (linear.bias is not None) == (last == "bias")
    keys = [name for name, _ in head.named_parameters()]
    assert sum(key.endswith("bias") for key in keys) == biases
    assert sum(key == "1.weight" or key == "4.weight" for key in keys) == scales
    found = head(torch.randn(64, 6))
    if end:
        torch.testing.assert_close(found.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
        torch.testing.assert_close(found.std(0), torch.ones(3), atol=0.02, rtol=0)


def test_controls_embed_and_are_never_trained():
    network = build("untrained", "resnet", "bn")
    assert torch.equal(
        network.eval().backbone(images()),
        build("supervised", "resnet", "bn").eval().backbone(images()),
    )
    with pytest.raises(RuntimeError, match="no loss"):
        network(batch("supervised"))


@pytest.mark.parametrize("norm", [norm for norm in NORMS if legal("simclr", "resnet", norm)])
def test_simclrs_output_norm_has_a_scale_that_is_trained_and_no_shift(norm):
    """The head of the authors' code ends in BN whose shift stays zero."""
    network = build("simclr", "resnet", norm, output_norm=True).train()
    network(batch("simclr"))
    last = dict(network.projector[-1].named_parameters())
    start = {name: p.detach().clone() for name, p in last.items()}
    trained = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 0.1, momentum=0.9, weight_decay=0.1)
    for step in range(2):
        optimizer.zero_grad()
        network(batch("simclr", step)).loss.backward()
        optimizer.step()
    shifts = [name for name in last if name.rpartition(".")[2] == "bias"]
    assert bool(shifts) == (not norm.startswith("rmsnorm"))
    for name, parameter in last.items():
        assert parameter.requires_grad == (name not in shifts)
        assert bool((parameter == 0).all()) if name in shifts else not parameter.equal(start[name])


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", TRAINED)
def test_what_a_method_encodes_reaches_every_norm_of_its_backbone(method, backbone):
    """Else a norm's statistics would be estimated from nothing."""
    made = build(method, backbone, "bn")
    counted = batch_norms(made.eval_backbone)
    assert reestimate(made.eval_backbone, uint8_images(), BATCH, lambda x: 4 * x - 2, made.encode)
    assert counted
    assert all(int(norm.num_batches_tracked) == 2 for norm in counted)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_masked_networks_statistics_are_of_masked_images(backbone):
    """Hidden pixels, which no training showed it, do not reach them."""
    found = {}
    for name in ("as they are", "hidden ones changed", "visible ones changed"):
        method = build("mae", backbone, "bn")
        images = uint8_images()
        for number, part in enumerate(images.split(BATCH)):
            mask = method.mask(len(part), keyed(0, "statistics", number))
            hidden = (
                mask.hidden.view(len(part), 1, 4, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
            )
            if name != "as they are":
                part[(hidden == (name == "hidden ones changed")).expand_as(part)] = 255
        reestimate(method.eval_backbone, images, BATCH, lambda x: 4 * x - 2, method.encode)
        found[name] = torch.cat([norm.running_mean for norm in batch_norms(method.eval_backbone)])
    assert torch.equal(found["as they are"], found["hidden ones changed"])
    assert not torch.allclose(found["as they are"], found["visible ones changed"], atol=1e-3)


def uint8_images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (2 * BATCH, 3, SIDE, SIDE), generator=generator).to(torch.uint8)


LAYERS = {"simclr": 2, "moco": 2, "simsiam": 3, "barlow": 3, "dino": 3, "mocov3": 2}
"""Layers of each method's projector in its paper's recipe for ImageNet and ResNets."""


def kinds(head):
    return [type(module).__name__ for module in head]


@pytest.mark.parametrize("layers", [1, 2, 3, 4, None])
@pytest.mark.parametrize("method", LAYERS)
def test_a_projector_has_the_layers_asked_for(method, layers):
    given = {} if layers is None else {"projector_layers": layers}
    network = build(method, "resnet", "bn", **given)
    found = kinds(network.projector)
    count = layers or LAYERS[method]
    assert found.count("Linear") == count
    assert found.count("BatchNorm1d") == count - (method not in ("simsiam", "mocov3"))
    widths = [m.out_features for m in network.projector if isinstance(m, nn.Linear)]
    assert len(set(widths[:-1])) <= 1
    assert network(batch(method)).loss.isfinite()


@pytest.mark.parametrize("ends_in_a_norm", [True, False])
def test_mocov3s_predictor_ends_in_a_norm_or_not(ends_in_a_norm):
    """Of ViTs and of ResNets in the authors' code (moco/builder.py)."""
    network = build("mocov3", "resnet", "bn", predictor_norm=ends_in_a_norm)
    last = ["BatchNorm1d"] if ends_in_a_norm else []
    assert kinds(network.predictor) == ["Linear", "BatchNorm1d", "ReLU", "Linear", *last]
    assert all(m.bias is None for m in network.predictor if isinstance(m, nn.Linear))


def test_a_frozen_patch_projection_stays_as_it_was_drawn():
    given = build("mocov3", "vit", "ln", freeze_patches=True)
    free = build("mocov3", "vit", "ln")
    frozen = {name for name, p in given.named_parameters() if not p.requires_grad}
    assert {name for name in frozen if not name.startswith("teacher.")} == {
        "backbone.net.patch_embed.proj.weight",
        "backbone.net.patch_embed.proj.bias",
    }
    for name, parameter in free.named_parameters():
        assert torch.equal(given.get_parameter(name), parameter)
    given(batch("mocov3")).loss.backward()
    assert given.backbone.net.patch_embed.proj.weight.grad is None


def test_only_what_embeds_patches_has_some_to_freeze():
    with pytest.raises(UserError, match=r"^freeze_patches is true, and the backbone embeds no"):
        build("mocov3", "resnet", "bn", freeze_patches=True)


@pytest.mark.parametrize(("depth", "heads"), [(3, 4), (1, 1), (2, 2)])
def test_maes_decoder_has_the_blocks_and_heads_asked_for(depth, heads):
    network = build("mae", "vit", "ln", decoder_depth=depth, decoder_heads=heads)
    blocks = [m for m in network.decoder.modules() if type(m).__name__ == "Block"]
    assert [block.attn.num_heads for block in blocks] == [heads] * depth
    # Each block of width 8: attention 4 · 8² + 4 · 8, the MLP 2 · 4 · 8² + 5 · 8, two norms 4 · 8.
    assert {sum(p.numel() for p in b.parameters()) for b in blocks} == {288 + 552 + 32}
    network(batch("mae")).loss.backward()
    for name, parameter in network.decoder.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize(
    ("backbone", "given", "said"),
    [
        (
            "resnet",
            {"decoder_depth": 2},
            "decoder_depth is 2 and decoder_heads 2, expected 1 and 2",
        ),
        (
            "resnet",
            {"decoder_heads": 4},
            "decoder_depth is 1 and decoder_heads 4, expected 1 and 2",
        ),
        ("vit", {"decoder_heads": 3}, "decoder_heads 3 does not divide the width 8"),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(backbone, given, said):
    with pytest.raises(UserError, match=f"^method mae: {said}"):
        build("mae", backbone, "ln", **given)


@pytest.mark.parametrize("method", TRAINED)
def test_numbers_drawn_ahead_are_those_of_the_step(method):
    """The loop draws them before the step; a call without the loop draws them itself."""
    losses = []
    for ahead in (False, True):
        network = build(method, "resnet", "bn").train()
        given = batch(method, 3)
        drawn = network.draws(given.draw, given.size)
        losses.append(network(given._replace(drawn=drawn) if ahead else given).loss)
    assert torch.equal(*losses)
    assert bool(drawn) == (
        method in {"byol", "dino", "lejepa", "mae", "moco", "mocov3", "rotation"}
    )
    if drawn:  # and they are used
        given = given._replace(drawn=network.draws(Draw(1, 3), given.size))
        assert not torch.equal(build(method, "resnet", "bn").train()(given).loss, losses[0])
