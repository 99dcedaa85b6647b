"""Fine-tuning: what it trains, on which labels, and what it leaves alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from timm.optim import param_groups_layer_decay
from torch import Tensor

from benchmark.backbones.base import Backbone, ImageShape
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.evaluation.features import reestimate
from benchmark.evaluation.few_labels import subsets
from benchmark.evaluation.finetune import FineTuned, finetune, steps_of, tunings
from benchmark.methods.base import Batch
from benchmark.norms.bases import batch_norms
from benchmark.planning.configuration import FinetuneConfig
from benchmark.training.loop import Interrupted
from benchmark.training.network import parameter_groups
from tests.golden.values import VIEWS
from tests.helpers.small import CLASSES, EVALUATION, SIDE, build, encoder, images

COUNTS = {"train": 40, "validation": 20, "test": 30}
VIEW = {**VIEWS, "jitter": 0.0, "grayscale": 0.0, "solarize": 0.0, "blur": 0.0}


def recipe(**changes: Any) -> FinetuneConfig:
    found = {
        "epochs": 10,
        "batch_size": 8,
        "learning_rates": [0.1],
        "warmup_fraction": 0.0,
        "weight_decay": 0.0,
        "precision": "float32",
        "weight_decay_on": "weights",
        "optimizer": {"name": "sgd", "momentum": 0.9, "nesterov": True},
        "view": VIEW,
        "norms": "batch",
    }
    return FinetuneConfig.model_validate(found | changes)


def splits() -> dict[str, tuple[Tensor, Tensor]]:
    """Noise in which the class is the channel that is bright, or none, or two."""
    made = {}
    for seed, (name, count) in enumerate(COUNTS.items()):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randint(80, (count, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % CLASSES
        bright = torch.tensor([[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [1, 1, 0]])
        lights = (150 * bright[labels]).to(torch.uint8)
        made[name] = noise + lights[:, :, None, None], labels
    return made


def standardise(images: Tensor) -> Tensor:
    return (images - 0.4) / 0.3


def tuned(
    folder: Path,
    asked: FinetuneConfig,
    backbone: Backbone | None = None,
    seed: int = 0,
    last: int | None = None,
    data: Mapping[str, tuple[Tensor, Tensor]] | None = None,
) -> dict[str, Any]:
    """The metrics of a small ResNet; it is told to stop after `last` steps of all runs."""
    made = data or splits()
    method = build("simclr", "resnet", "bn")
    reestimate(method.backbone, made["train"][0], 20, standardise)
    sets = tunings(asked, made["train"], seed)
    spec = EVALUATION.model_copy(update={"finetune": asked})
    return finetune(
        backbone or method.backbone, method.context, sets, made, spec, seed, standardise,
        torch.device("cpu"), folder, "key", lambda done, *_: done != last,
    )  # fmt: skip


def states(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("norms", "rate"), [("frozen", 0.01), ("batch", 0.1)])
def test_labels_that_are_linear_in_the_features_are_learnt_completely(
    tmp_path: Path, norms: str, rate: float
) -> None:
    found = tuned(tmp_path, recipe(norms=norms, learning_rates=[rate], epochs=20))
    assert found == {
        "finetune.accuracy": 1.0,
        "finetune.validation": 1.0,
        "finetune.chosen_rate": rate,
    }


def test_the_pretrained_backbone_is_left_alone(tmp_path: Path) -> None:
    backbone = encoder("resnet", "bn").eval()
    backbone.requires_grad_(False)
    before = copy.deepcopy(backbone.state_dict())
    tuned(tmp_path, recipe(), backbone)
    assert not backbone.training
    assert not any(p.requires_grad or p.grad is not None for p in backbone.parameters())
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("norm", ["bn", "ghost-bn", "batch-renorm"])
@pytest.mark.parametrize("norms", ["frozen", "batch"])
def test_frozen_norms_keep_their_statistics_and_train_their_scale(norm: str, norms: str) -> None:
    backbone = encoder("resnet", norm)
    evaluated = copy.deepcopy(backbone).eval()
    network = FineTuned(backbone, build("simclr", "resnet", "bn").context, recipe(norms=norms))
    torch.nn.init.normal_(network.classifier.weight)
    network.train()
    before = [(own.running_mean.clone(), own.running_var.clone()) for own in batch_norms(backbone)]
    x = images(8)
    network(Batch([x], torch.arange(8) % CLASSES, Draw(0, 0), 0.0)).loss.backward()
    after = [(own.running_mean, own.running_var) for own in batch_norms(backbone)]
    kept = all(
        torch.equal(old, new)
        for pair, now in zip(before, after, strict=True)
        for old, new in zip(pair, now, strict=True)
    )
    assert kept == (norms == "frozen")
    if norms == "frozen":
        assert torch.equal(backbone(x), evaluated(x))
    assert all(own.weight.grad.abs().sum() > 0 for own in batch_norms(backbone))


def test_the_classifier_starts_at_zero() -> None:
    network = FineTuned(encoder("resnet", "bn"), build("simclr", "resnet", "bn").context, recipe())
    outcome = network(Batch([images(8)], torch.arange(8) % CLASSES, Draw(0, 0), 0.0))
    assert float(outcome.loss.detach()) == pytest.approx(math.log(CLASSES))


def test_the_bits_depend_on_the_seed_alone_and_survive_a_stop(tmp_path: Path) -> None:
    asked = recipe(learning_rates=[0.01, 0.1], epochs=2)
    whole = tuned(tmp_path / "whole", asked)
    with pytest.raises(Interrupted):
        tuned(tmp_path / "stopped", asked, last=13)
    # The first rate's ten steps are done, of the second rate's there are three.
    assert tuned(tmp_path / "stopped", asked) == whole
    assert states(tmp_path / "stopped") == states(tmp_path / "whole")
    tuned(tmp_path / "other", asked, seed=1)
    assert states(tmp_path / "other") != states(tmp_path / "whole")


def test_a_request_to_stop_is_heard_at_each_step(tmp_path: Path) -> None:
    steps: list[int] = []
    asked = recipe(learning_rates=[0.01, 0.1], epochs=1)
    made = splits()
    method = build("simclr", "resnet", "bn")
    sets = tunings(asked, made["train"], 0)
    spec = EVALUATION.model_copy(update={"finetune": asked})

    def progress(done: int, total: int, loss: Tensor) -> bool:
        assert total == steps_of(sets) == 10
        steps.append(done)
        return True

    finetune(
        method.backbone, method.context, sets, made, spec, 0, standardise, torch.device("cpu"),
        tmp_path, "key", progress,
    )  # fmt: skip
    assert steps == list(range(1, 11))


def test_validation_chooses_the_rate(tmp_path: Path) -> None:
    """Also against a rate that diverges; if all do, there is no accuracy."""
    found = tuned(tmp_path / "a", recipe(learning_rates=[1e-9, 0.1, 1e30], epochs=20))
    assert found["finetune.chosen_rate"] == 0.1
    data = splits()
    data["test"] = data["test"][0], (data["test"][1] + 1) % CLASSES
    judged = tuned(tmp_path / "b", recipe(learning_rates=[1e-9, 0.1], epochs=20), data=data)
    assert (judged["finetune.chosen_rate"], judged["finetune.accuracy"]) == (0.1, 0.0)
    none = tuned(tmp_path / "c", recipe(learning_rates=[1e30]))
    assert set(none.values()) == {None}


class Recorder:
    """Images that are read when they are asked for, and remember which ones were."""

    def __init__(self, images: Tensor) -> None:
        self.images, self.asked = images, set[int]()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Tensor) -> Tensor:
        self.asked |= set(index.tolist())
        return self.images[index]

    def split(self, size: int) -> Iterator[Tensor]:
        raise AssertionError("all images are read")


def test_few_labels_are_those_of_the_subset_alone(tmp_path: Path) -> None:
    data = splits()
    seen = Recorder(data["train"][0])
    data["train"] = cast(Tensor, seen), data["train"][1]
    asked = recipe(labels=[{"share": 0.4, "epochs": 4}])
    sets = tunings(asked, data["train"], 3)[1:]
    (only,) = sets
    assert only.runs[0].steps == 4 * 15 // 8  # three of each class
    method = build("simclr", "resnet", "bn")
    spec = EVALUATION.model_copy(update={"finetune": asked})
    found = finetune(
        method.backbone, method.context, sets, data, spec, 3, standardise, torch.device("cpu"),
        tmp_path, "key", lambda *_: True,
    )  # fmt: skip
    assert seen.asked == set(subsets(data["train"][1], [0.4], 3)[0.4].tolist())
    assert set(found) == {
        f"finetune.labels_0.4.{part}" for part in ("accuracy", "validation", "chosen_rate")
    }


def test_a_subset_of_less_than_a_batch_is_refused() -> None:
    with pytest.raises(UserError, match="batch_size is 8, expected at most the 5 training images"):
        tunings(recipe(labels=[{"share": 0.1, "epochs": 1}]), splits()["train"], 0)


def factors(backbone: str, decay: float) -> tuple[FineTuned, dict[str, float]]:
    method = build("simclr", backbone, "bn" if backbone == "resnet" else "ln")
    network = FineTuned(method.backbone, method.context, recipe(layer_decay=decay))
    found = network.rate_factors()
    return network, {name: found.get(p, 1.0) for name, p in network.named_parameters()}


def test_rates_by_layer_are_those_of_mae_on_a_vit() -> None:
    """2111.06377, code, `util/lr_decay.py`: a power of depth + 1 − i for layer i, 0 to depth + 1.

    The final norm is in timm's last block.
    """
    network, found = factors("vit", 0.75)
    depth = len(cast(Any, network.backbone).net.blocks)
    for name, factor in found.items():
        _, _, path = name.partition("net.")
        layer = depth + 1
        if path.startswith(("cls_token", "pos_embed", "patch_embed")):
            layer = 0
        elif path.startswith("blocks."):
            layer = int(path.split(".")[1]) + 1
        elif path.startswith("norm."):
            layer = depth
        assert factor == pytest.approx(0.75 ** (depth + 1 - layer)), name
    assert found["classifier.weight"] == 1


def test_rates_by_layer_are_those_of_timm_on_a_resnet() -> None:
    """timm's own of the network, one layer further from the output: the classifier is above it."""
    network, found = factors("resnet", 0.5)
    net = cast(Any, network.backbone).net
    scales = {
        id(p): group["lr_scale"]
        for group in param_groups_layer_decay(net, layer_decay=0.5)
        for p in group["params"]
    }
    assert len(set(scales.values())) > 2
    for name, parameter in network.named_parameters():
        if ".net." in name:
            assert found[name] == pytest.approx(0.5 * scales[id(parameter)]), name


def test_rates_by_layer_reach_the_optimizer() -> None:
    network, found = factors("resnet", 0.5)
    groups = parameter_groups(network, 0.1, "weights", (), 3.0, network.rate_factors())
    rates = {id(p): group["rate_factor"] for group in groups for p in group["params"]}
    for name, parameter in network.named_parameters():
        assert rates[id(parameter)] == found[name] * (1 if parameter.ndim >= 2 else 3), name


def test_a_backbone_without_layers_is_refused() -> None:
    class Plain(Backbone):
        width = 3

        def features(self, images: Tensor) -> dict[str, Tensor]:
            return {"pooled": images.mean((2, 3))}

    assert Plain()(torch.zeros(2, *ImageShape(3, 4, 4))).shape == (2, 3)
    with pytest.raises(UserError, match="layer_decay is below 1"):
        Plain().layers()
