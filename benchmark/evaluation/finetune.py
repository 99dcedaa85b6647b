"""Fine-tuning: copies of the pre-trained backbone are trained on labels with a new classifier."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.backbones.base import Backbone
from benchmark.core.errors import UserError
from benchmark.core.randomness import keyed
from benchmark.data import storage
from benchmark.data.storage import Labelled
from benchmark.evaluation.features import embed, finite, reestimate
from benchmark.evaluation.few_labels import subsets
from benchmark.methods.base import Batch, Context, Method, Outcome
from benchmark.methods.losses import classification
from benchmark.norms.bases import batch_norms
from benchmark.planning.configuration import EvaluationConfig, FinetuneConfig, TrainingConfig
from benchmark.training.loop import Progress, train

VERSION = 1
"""Raised whenever the same pre-trained weights would get other accuracies."""


class FineTuned(Method):
    """A linear classifier on the pooled embedding, zero at first, trained with the backbone."""

    def __init__(self, backbone: Backbone, context: Context, recipe: FinetuneConfig) -> None:
        own = dataclasses.replace(context, whole_batch_loss=False)
        super().__init__(backbone.requires_grad_(True), own)
        self.recipe = recipe
        self.classifier = nn.Linear(backbone.width, context.classes)
        nn.init.zeros_(self.classifier.weight)
        nn.init.zeros_(self.classifier.bias)

    def train(self, mode: bool = True) -> FineTuned:
        """The mode of all layers; frozen norms always use their running statistics."""
        super().train(mode)
        if self.recipe.norms == "frozen":
            for norm in batch_norms(self.backbone):
                norm.eval()
        return self

    def rate_factors(self) -> Mapping[nn.Parameter, float]:
        """`layer_decay` to the power of the number of layers from a parameter up to the classifier.

        As in BEiT (2106.08254) and MAE (2111.06377, A.1), but timm's layers have a ViT's final norm in
        the last block, and these have it beside the classifier.
        """
        decay = self.recipe.layer_decay
        layers = self.backbone.layers() if decay < 1 else []
        return {
            parameter: decay**above
            for above, layer in enumerate(reversed(layers), 1)
            for parameter in layer
        }

    def forward(self, batch: Batch) -> Outcome:
        """Cross-entropy against the labels."""
        (view,) = batch.views
        logits = self.classifier(self.backbone.features(view)["pooled"])
        return Outcome(*classification(logits, batch.labels))

    @torch.no_grad()
    def accuracy(self, split: Labelled, standardise: Callable[[Tensor], Tensor]) -> float | None:
        """Top-1 in 0..1 on images and labels, in evaluation mode; None if a logit is not finite."""
        logits = self.classifier(embed(self.backbone, split[0], standardise)["pooled"])
        return int((logits.argmax(1) == split[1]).sum()) / len(logits) if finite(logits) else None


@dataclass(frozen=True)
class Tuning:
    """One set of labels and the training runs on it, one for each learning rate."""

    name: str
    """The prefix of its metrics."""
    train: Labelled
    """Images and labels."""
    runs: tuple[TrainingConfig, ...]


def tunings(recipe: FinetuneConfig, train: Labelled, split_seed: int) -> list[Tuning]:
    """All sets of labels that a recipe asks for; UserError if one has less than a batch.

    `split_seed` draws the images of a share, see `evaluation.few_labels`.
    """
    found = [("finetune", recipe.epochs, train)]
    chosen = subsets(train[1], [few.share for few in recipe.labels], split_seed)
    for few in recipe.labels:
        index = chosen[few.share]
        found.append((f"finetune.labels_{few.share:g}", few.epochs, storage.subset(train, index)))
        if len(index) < recipe.batch_size:
            raise UserError(
                f"evaluation.finetune: batch_size is {recipe.batch_size}, expected at most the "
                f"{len(index)} training images at share {few.share:g}"
            )
    return [
        Tuning(
            name,
            split,
            tuple(recipe.training(r, epochs, len(split[1])) for r in recipe.learning_rates),
        )
        for name, epochs, split in found
    ]


def steps_of(asked: Sequence[Tuning]) -> int:
    """The steps of all training runs."""
    return sum(run.steps for tuning in asked for run in tuning.runs)


def finetune(
    backbone: Backbone,
    context: Context,
    asked: Sequence[Tuning],
    splits: Mapping[str, Labelled],
    spec: EvaluationConfig,
    seed: int,
    standardise: Callable[[Tensor], Tensor],
    device: torch.device,
    checkpoints: Path,
    fingerprint: str,
    progress: Progress,
) -> dict[str, Any]:
    """Fine-tunes copies of a backbone; its metrics, see docs/protocol.md.

    `splits` holds uint8 images and labels, and `asked` comes from `tunings`. `checkpoints` is a folder
    for the states of runs: a later call with the same `fingerprint` resumes. Raises
    `training.loop.Interrupted` if `progress`, which gets the steps of all runs together, says to stop.
    """
    recipe = spec.finetune
    if recipe is None:
        raise ValueError("the cell has no recipe for fine-tuning")
    own = keyed(seed, "finetune").initial_seed()  # not the views of pre-training once more
    before, total = 0, steps_of(asked)
    metrics: dict[str, Any] = {}
    for tuning in asked:
        best: tuple[float, float, float | None] | None = None
        for run in tuning.runs:
            network = FineTuned(copy.deepcopy(backbone), context, recipe).to(device)
            name = f"{tuning.name}-{run.learning_rate:g}"
            path, key = checkpoints / f"{name}.safetensors", f"{fingerprint}/{name}"

            def report(done: int, _: int, loss: Tensor, before: int = before) -> bool:
                return progress(before + done, total, loss)

            images, labels = tuning.train
            trained = train(
                network, run, own, images, labels, standardise, device, path, key, report,
                final=(path, key),
            )  # fmt: skip
            before += run.steps
            if trained.status == "diverged":
                continue
            if recipe.norms == "batch":
                reestimate(network.backbone, images, spec.precise_bn_batch_size, standardise)
            score = network.accuracy(splits["validation"], standardise)
            if score is not None and (best is None or score > best[0]):
                judged = network.accuracy(splits[spec.judge], standardise)
                best = score, run.learning_rate, judged
        validation, rate, accuracy = best or (None, None, None)
        metrics |= {
            f"{tuning.name}.accuracy": accuracy,
            f"{tuning.name}.validation": validation,
            f"{tuning.name}.chosen_rate": rate,
        }
    return metrics
