"""The diagnostics of a finished cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.core.randomness import keyed
from benchmark.diagnostics import collapse, leakage
from benchmark.diagnostics.frozen import grouping, training_mode
from benchmark.diagnostics.held_out import HeldOut, batches, by_image
from benchmark.diagnostics.three_way import KEYS, three_way
from benchmark.evaluation.features import CHUNK, in_parts, preserve_state
from benchmark.methods.base import MaskedMethod, Method
from benchmark.planning.configuration import Configuration

VERSION = 3
"""Raised whenever the same weights would get other diagnostics."""

VIEWED = 500
"""Held-out images whose views the collapse measures look at."""

VIEWS = 4
"""Views of each: enough for LiDAR's scatter within an image, which is pooled over all images."""

BATCHES = 8
"""Batches into which images are dealt again and again: an eighth of the mates are the same by chance."""

REDRAWS = 3
"""How often they are dealt."""

SWAPPED = 16
"""Batches of the swap gap, at most: at 64 images each, 1,024 queries."""

LEAKAGE = (
    "pretext_same_group",
    "pretext_regrouped",
    "swap_gap",
    "swap_gap_initial",
    "same_group",
    "same_group_chance",
    "masked_patch_change",
)

Measures = dict[str, Any]


def diagnose(
    method: Method,
    config: Configuration,
    splits: Mapping[str, tuple[Tensor, Tensor]],
    standardise: Callable[[Tensor], Tensor],
    initial: Callable[[], Method],
) -> dict[str, Measures]:
    """`sections`, `leakage` and `three_way` of a finished cell, see docs/diagnostics.md.

    `config` is the cell's; `splits` holds uint8 images and labels of `train` and of the split that
    the cell is judged on; `initial` makes the method as it was before its training. The method is
    left as it was. A value that is not finite, or not defined, is null.
    """
    training, spec, seed = config.training, config.evaluation, config.seed
    judged = splits[spec.judge]
    leaks: Measures = dict.fromkeys(LEAKAGE)
    shares: Measures = dict.fromkeys(KEYS)
    with preserve_state(method):
        method.eval()
        held_out = HeldOut(judged[0], training.views, standardise, seed) if training else None
        sections = _sections(method, judged[0], standardise, held_out)
        if training and held_out:
            if len(judged[0]) >= 2 * training.batch_size:
                training_mode(method)
                found, leaks = _leakage(method, held_out, training.batch_size, initial)
                sections = {name: sections[name] | found[name] for name in sections}
            shares = three_way(
                method.eval_backbone, splits["train"], judged, training.batch_size, spec,
                standardise, seed,
            )  # fmt: skip
    return {"sections": sections, "leakage": leaks, "three_way": shares}


@torch.no_grad()
def _sections(
    method: Method,
    images: Tensor,
    standardise: Callable[[Tensor], Tensor],
    held_out: HeldOut | None,
) -> dict[str, Measures]:
    """What the embeddings of each section say in evaluation mode, and nulls for the rest."""
    networks = method.embedding_networks()
    parts = [_embeddings(networks, part) for part in in_parts(images, standardise)]
    several = []
    if held_out:
        for number in range(VIEWS):
            given = held_out.views(0, min(VIEWED, len(images)), number).split(CHUNK)
            several.append([_embeddings(networks, part) for part in given])
    found = {}
    for name in networks:
        clean = torch.cat([part[name] for part in parts])
        views = [torch.cat([part[name] for part in view]) for view in several]
        found[name] = {
            "width": clean.shape[1],
            **collapse.measures(clean, torch.stack(views, 1) if views else None),
            "batch_dependence": None,
            "jacobian_ratio": None,
        }
    return found


def _embeddings(networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Each network's embeddings (N, D); one that begins with another goes on from its embeddings."""
    found: dict[str, Tensor] = {}
    for name, network in networks.items():
        begun = None
        if isinstance(network, nn.Sequential):
            begun = next((other for other in found if networks[other] is network[0]), None)
        if begun is not None and isinstance(network, nn.Sequential):
            found[name] = network[1:](found[begun])
        else:
            found[name] = network(x)
    return found


def _leakage(
    method: Method, held_out: HeldOut, batch: int, initial: Callable[[], Method]
) -> tuple[dict[str, Measures], Measures]:
    """By section what depends on the batch-mates, and what leaks; the method is in training mode."""
    seed, networks = held_out.seed, method.embedding_networks()
    count = min(BATCHES, len(held_out.images) // batch)
    x = held_out.views(0, count * batch, 0)
    dealt = batches(REDRAWS, count, batch, seed).to(x.device)

    @torch.no_grad()
    def embedded(index: Tensor) -> dict[str, Tensor]:
        with preserve_state(method):
            return _embeddings(networks, x[index])

    z = by_image(embedded, dealt)
    ratios = leakage.jacobian_ratios(networks, x[dealt[0, 0]], seed)
    sections = {
        name: {
            "batch_dependence": leakage.batch_dependence(z[name]),
            "jacobian_ratio": ratios[name],
        }
        for name in networks
    }
    leaks: Measures = dict.fromkeys(LEAKAGE)
    last = list(networks)[-1]
    group = grouping(networks[last], batch)
    if group is not None:
        batched = torch.cat([own[order] for own, order in zip(z[last], dealt, strict=True)])
        leaks["same_group"], leaks["same_group_chance"] = leakage.same_group(batched, group)
    if (accuracies := _pretext(method, held_out, batch)) is not None:
        leaks["pretext_same_group"], leaks["pretext_regrouped"] = accuracies
        leaks["swap_gap"] = accuracies[0] - accuracies[1]
        untrained = initial()
        training_mode(untrained)
        if (accuracies := _pretext(untrained, held_out, batch)) is not None:
            leaks["swap_gap_initial"] = accuracies[0] - accuracies[1]
    if isinstance(method, MaskedMethod):
        leaks["masked_patch_change"] = _masked_patch_change(method, x, dealt, seed)
    return sections, leaks


def _pretext(method: Method, held_out: HeldOut, batch: int) -> tuple[float, float] | None:
    """See `leakage.pretext_accuracies`.

    Null without positives, and where their target's network has fewer than two groups.
    """
    networks = method.query_and_target() if len(held_out.specs) > 1 else None
    if networks is None or grouping(networks.target, batch) is None:
        return None
    total = len(held_out.images) // batch
    # A queue of images of its own: another view of a query's image would pass for a negative.
    queued = min(-(-networks.queue // batch), total - 1)
    asked = min(SWAPPED, total - queued)
    views = [
        held_out.views(start, count * batch, number).unflatten(0, (count, batch))
        for start, count, number in ((0, asked, 0), (0, asked, 1), (asked * batch, queued, 1))
        if count
    ]
    earlier = views[2] if queued else views[1][:0]
    return leakage.pretext_accuracies(
        networks, views[0], views[1], earlier, held_out.seed,
        joint=method.context.view_batching == "joint",
    )  # fmt: skip


@torch.no_grad()
def _masked_patch_change(method: MaskedMethod, x: Tensor, dealt: Tensor, seed: int) -> float | None:
    masks = method.mask(len(x), keyed(seed, "diagnostics", "masks"))

    def losses(index: Tensor) -> dict[str, Tensor]:
        place = index.to(masks.hidden.device)
        own = masks._replace(hidden=masks.hidden[place], visible=masks.visible[place])
        with preserve_state(method):
            return {"loss": method.errors(x[index], own)}

    return leakage.relative_change(by_image(losses, dealt)["loss"])
