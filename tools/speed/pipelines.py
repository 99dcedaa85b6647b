"""The pipelines that are timed: this project's, two peers', and the bare step as the limit.

All train the same network with the same optimizer on the same images; they differ in how views come
about, and each peer in its own loss. A contestant trains until `tick`, which it calls at the start of
every step, raises.
"""

from __future__ import annotations

import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmark.backbones.base import channels_last
from benchmark.components import registry
from benchmark.core.errors import UserError
from benchmark.core.randomness import Draw
from benchmark.data.augment import complete
from benchmark.data.standardise import standardiser
from benchmark.methods.base import Batch
from benchmark.training import network
from benchmark.training.loop import train
from tools.speed.cases import Case

Tick = Callable[[], None]


class Contestant(ABC):
    """A pipeline around the network of a case."""

    def __init__(self, case: Case, root: Path, device: torch.device, workers: int) -> None:
        self.cell, self.device = case.cell(root), device
        self.recipe = self.cell.config.recipe
        self.case = case
        self.method = channels_last(network.build(self.cell, case.manifest).to(device))
        self.standardise = standardiser(case.manifest, device)

    @abstractmethod
    def run(self, tick: Tick) -> None:
        """Trains until `tick` raises."""


class Loop(Contestant):
    """A plain training loop; how the views come about is the subclass's."""

    def __init__(self, case: Case, root: Path, device: torch.device, workers: int) -> None:
        super().__init__(case, root, device, workers)
        self.optimizer = self.optimizer_of(lambda parameter: parameter)
        self.method.train()

    def optimizer_of(self, stands_for: Callable[[Tensor], Tensor]) -> torch.optim.Optimizer:
        """The recipe's optimizer, with what stands for each parameter in its place."""
        groups = network.parameter_groups(
            self.method, self.recipe.weight_decay, self.recipe.weight_decay_on
        )
        for group in groups:
            group["params"] = [stands_for(parameter) for parameter in group["params"]]
        chosen = self.recipe.optimizer
        module = registry.load("optimizer", chosen.name)
        optimizer: torch.optim.Optimizer = module.build(
            groups, self.recipe.learning_rate, **chosen.options
        )
        return optimizer

    @abstractmethod
    def views(self) -> Iterator[list[Tensor]]:
        """Two views a step, standardised, on the device."""

    def loss(self, views: list[Tensor]) -> Tensor:
        """This project's loss."""
        labels = torch.empty(0)
        loss: Tensor = self.method(Batch(views, labels, Draw(0, 0), 0.0)).loss
        return loss

    def run(self, tick: Tick) -> None:
        """A step is what any such loop does, and nothing more."""
        mixed = self.recipe.precision == "bfloat16"
        stream = self.views()
        while True:
            tick()
            views = next(stream)
            self.optimizer.zero_grad()
            with torch.autocast(self.device.type, torch.bfloat16, enabled=mixed):
                loss = self.loss(views)
            loss.backward()
            self.optimizer.step()


class Ours(Contestant):
    """The training loop of a cell as it is, with its curves, gradient norms and schedules."""

    def run(self, tick: Tick) -> None:
        """The method is called once a step."""
        images = self.case.images().to(self.device)
        labels = torch.zeros(len(images), dtype=torch.int64, device=self.device)
        hook = self.method.register_forward_pre_hook(lambda *_: tick())
        try:
            with tempfile.TemporaryDirectory() as folder:
                train(
                    self.method, self.recipe, self.cell.config.seed, images, labels, self.standardise,
                    self.device, Path(folder) / "checkpoint.safetensors", "", lambda *_: True,
                )  # fmt: skip
        finally:
            hook.remove()


class Bare(Loop):
    """The step on two fixed tensors: what no pipeline can exceed."""

    def views(self) -> Iterator[list[Tensor]]:
        """The same tensors for ever."""
        pixels = self.case.images()[: self.case.batch].to(self.device).float() / 255
        fixed = [self.standardise(pixels), self.standardise(pixels.flip(3))]
        while True:
            yield fixed


class Kornia(Loop):
    """kornia's augmentations of whole batches, on the device."""

    def __init__(self, case: Case, root: Path, device: torch.device, workers: int) -> None:
        super().__init__(case, root, device, workers)
        augmentation = _peer("kornia.augmentation")
        spec, side = self.recipe.views[0], case.side
        jitter = [spec[key] for key in ("brightness", "contrast", "saturation", "hue")]
        if case.channels == 1:
            jitter[2:] = [0.0, 0.0]
        operations = [
            augmentation.RandomResizedCrop(
                (side, side), tuple(spec["crop_scale"]), tuple(spec["crop_ratio"])
            ),
            augmentation.RandomHorizontalFlip(spec["flip"]),
            augmentation.ColorJitter(*jitter, p=spec["jitter"]),
        ]
        if case.channels == 3:
            operations.append(augmentation.RandomGrayscale(p=spec["grayscale"]))
        self.augment = torch.nn.Sequential(*operations)

    def views(self) -> Iterator[list[Tensor]]:
        """Two augmentations of one batch after another, in random order."""
        images, batch = self.case.images().to(self.device), self.case.batch
        while True:
            order = torch.randperm(len(images), device=self.device)
            for index in order.split(batch):
                if len(index) == batch:
                    pixels = images[index].float() / 255
                    yield [self.standardise(self.augment(pixels)) for _ in range(2)]


class Lightly(Loop):
    """lightly's transforms of single PIL images in a DataLoader's workers, and its loss."""

    def __init__(self, case: Case, root: Path, device: torch.device, workers: int) -> None:
        super().__init__(case, root, device, workers)
        spec = self.recipe.views[0]
        self.transform = _peer("lightly.transforms").SimCLRTransform(
            input_size=case.side,
            cj_prob=spec["jitter"],
            cj_strength=1.0,
            cj_bright=spec["brightness"],
            cj_contrast=spec["contrast"],
            cj_sat=spec["saturation"],
            cj_hue=spec["hue"],
            min_scale=spec["crop_scale"][0],
            random_gray_scale=spec["grayscale"],
            gaussian_blur=complete(spec)["blur"],
            hf_prob=spec["flip"],
            normalize={"mean": list(case.manifest.mean), "std": list(case.manifest.std)},
        )
        criterion = _peer("lightly.loss").NTXentLoss
        self.criterion = criterion(self.cell.config.method.options["temperature"])
        self.loader = torch.utils.data.DataLoader(
            _Pictures(case.images(), self.transform),
            case.batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    def views(self) -> Iterator[list[Tensor]]:
        """Batch after batch of the loader, epoch after epoch."""
        while True:
            for first, second in self.loader:
                yield [
                    view.to(self.device, non_blocking=True).contiguous(
                        memory_format=torch.channels_last
                    )
                    for view in (first, second)
                ]

    def loss(self, views: list[Tensor]) -> Tensor:
        """lightly's loss of the same projections, the views batched alike."""
        projected = self.method.each_view(self.method.embedding_networks()["projector"], views)
        loss: Tensor = self.criterion(*projected)
        return loss


class _Pictures(torch.utils.data.Dataset[list[Tensor]]):
    """Images as PIL pictures, which is what lightly's data sets give to its transforms."""

    def __init__(self, images: Tensor, transform: Callable[[Any], list[Tensor]]) -> None:
        from torchvision.transforms.functional import to_pil_image

        self.pictures = [to_pil_image(image) for image in images]
        self.transform = transform

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> list[Tensor]:
        return self.transform(self.pictures[index])


def _peer(module: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.split(".")[0]
        raise UserError(f"{library} is not installed: `uv sync --group dev`") from None


CONTESTANTS: dict[str, type[Contestant]] = {
    "ours": Ours,
    "lightly": Lightly,
    "kornia": Kornia,
    "bare": Bare,
}
