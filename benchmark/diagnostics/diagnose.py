"""The diagnostics of a finished cell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.components import registry
from benchmark.core.randomness import keyed
from benchmark.data.storage import Images, Labelled
from benchmark.diagnostics import collapse, leakage
from benchmark.diagnostics.frozen import grouping, training_mode
from benchmark.diagnostics.held_out import HeldOut, batches, by_image
from benchmark.diagnostics.three_way import KEYS, three_way
from benchmark.evaluation.features import chunk, in_parts, preserve_state
from benchmark.methods.base import MaskedMethod, Method
from benchmark.planning.configuration import Configuration

VERSION = 3
"""Raised whenever the same weights would get other diagnostics."""

VIEWED = 500
"""Held-out images whose views the collapse measures use."""

VIEWS = 4
"""Views of each: enough for LiDAR's scatter within an image, which is pooled over all images."""

BATCHES = 8
"""Batches of a redraw: an eighth of an image's batch-mates are the same in two redraws by chance."""

REDRAWS = 3
"""Random assignments of the images to batches."""

SWAPPED = 16
"""Most batches of the swap gap: with 64 images each, 1,024 queries."""

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
    splits: Mapping[str, Labelled],
    standardise: Callable[[Tensor], Tensor],
    initial: Callable[[], Method],
) -> dict[str, Measures]:
    """`sections`, `leakage` and `three_way` of a finished cell, see docs/diagnostics.md.

    `config` is the cell's. `splits` holds uint8 images and labels of `train` and of the split that the
    cell is judged on. `initial` builds the method with its initial weights. The method's state is
    restored. Values that are not finite or not defined are None.
    """
    training, spec, seed = config.training, config.evaluation, config.seed
    judged = splits[spec.judge]
    leaks: Measures = dict.fromkeys(LEAKAGE)
    shares: Measures = dict.fromkeys(KEYS)
    with preserve_state(method):
        method.eval()
        held_out = None
        if training:
            # Not the local views, which the networks are not judged on.
            kinds = training.views[: registry.facts("method", config.method.name)["views"]]
            held_out = HeldOut(judged[0], kinds, standardise, seed)
        sections = _sections(method, judged[0], standardise, held_out)
        if training and held_out:
            if len(judged[0]) >= 2 * training.batch_size:
                training_mode(method)
                of_batch, leaks = _leakage(method, held_out, training.batch_size, initial)
                sections = {name: sections[name] | of_batch[name] for name in sections}
            shares = three_way(
                method.eval_backbone, splits["train"], judged, training.batch_size, spec,
                standardise, seed,
            )  # fmt: skip
    return {"sections": sections, "leakage": leaks, "three_way": shares}


@torch.no_grad()
def _sections(
    method: Method,
    images: Images | Tensor,
    standardise: Callable[[Tensor], Tensor],
    held_out: HeldOut | None,
) -> dict[str, Measures]:
    """The collapse measures of each section in evaluation mode; measures of batches are None."""
    networks = method.embedding_networks()

    def embedded(parts: Iterable[Tensor]) -> dict[str, Tensor]:
        z = [_embeddings(networks, part) for part in parts]
        return {name: torch.cat([part[name] for part in z]) for name in networks}

    clean, views = embedded(in_parts(images, standardise)), []
    if held_out:
        count = min(VIEWED, len(images))
        size = chunk(images)
        views = [embedded(held_out.views(0, count, n).split(size)) for n in range(VIEWS)]
    return {
        name: {
            "width": z.shape[1],
            **collapse.measures(z, torch.stack([v[name] for v in views], 1) if views else None),
            "batch_dependence": None,
            "jacobian_ratio": None,
        }
        for name, z in clean.items()
    }


def _embeddings(networks: Mapping[str, nn.Module], x: Tensor) -> dict[str, Tensor]:
    """Each network's embeddings (N, D); a network that begins with an earlier one reuses its output."""
    z: dict[str, Tensor] = {}
    for name, network in networks.items():
        layers = list(network) if isinstance(network, nn.Sequential) else [network]
        begun = [other for other in z if networks[other] is layers[0]]
        z[name] = nn.Sequential(*layers[1:])(z[begun[0]]) if begun else network(x)
    return z


def _leakage(
    method: Method, held_out: HeldOut, batch: int, initial: Callable[[], Method]
) -> tuple[dict[str, Measures], Measures]:
    """The measures of batches by section, and those of leakage; the method is in training mode."""
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
    """See `leakage.pretext_accuracies`; None without positives or with fewer than two BN groups."""
    networks = method.query_and_target() if len(held_out.specs) > 1 else None
    if networks is None or grouping(networks.target, batch) is None:
        return None
    total = len(held_out.images) // batch
    # The queue has other images: another view of a query's image would count as a negative.
    queued = min(-(-networks.queue // batch), total - 1)
    queries = min(SWAPPED, total - queued)
    views = [
        held_out.views(start, count * batch, number).unflatten(0, (count, batch))
        for start, count, number in ((0, queries, 0), (0, queries, 1), (queries * batch, queued, 1))
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
