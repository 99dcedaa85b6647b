"""What is timed: a SimCLR cell of this project, on made-up images of the right shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmark.config import params
from benchmark.config.schema import Params
from benchmark.data.manifest import Manifest, Split
from benchmark.planning import plan
from benchmark.planning.cell import Cell, Row

if TYPE_CHECKING:
    from torch import Tensor

IMAGES = 8192
"""Made-up images: how long a view takes does not depend on what is in it."""

RESNET18_SIZE = {"channels": (64, 128, 256, 512), "layers": (2, 2, 2, 2)}

SMALL_STEM = {"stem_kernel": 3, "stem_stride": 1, "stem_pool": False}
"""For small images."""

STEM = {"stem_kernel": 7, "stem_stride": 2, "stem_pool": True}
"""Of timm's resnet18, for large images."""

VIT_TINY_SIZE = {"embed_dim": 192, "depth": 12, "num_heads": 3}

WIDE_HEAD = {"hidden": 2048, "output": 256}


@dataclass(frozen=True)
class Case:
    """One training to be timed."""

    name: str
    track: str
    """Whose recipe it is."""
    backbone: str
    scheme: str
    side: int
    channels: int
    batch: int
    precision: str
    changed: Mapping[str, Any]
    """Arguments of the backbone that differ from the track's."""
    head: Mapping[str, int] = field(default_factory=dict)
    """Options of the recipe that differ from the track's."""

    def cell(self, root: Path) -> Cell:
        """The cell, long enough never to end while it is timed."""
        found = self._params(root)
        row = Row("simclr", self.backbone, self.scheme)
        setting = plan.default_setting(found, row)
        return plan.resolve(found, "speed", row, 0, setting, "validation", self.name)

    def _params(self, root: Path) -> Params:
        found = params.read(params.track_file(root, self.track))
        own_recipe = found.methods["simclr"]
        recipe = own_recipe.model_copy(
            update={
                "images_seen": 1_000_000 * self.batch,
                "options": {**own_recipe.options, **self.head},
            }
        )
        own = found.backbones[self.backbone]
        backbone = own.model_copy(update={"arguments": {**own.arguments, **self.changed}})
        training = {"batch_size": self.batch, "precision": self.precision}
        return found.model_copy(
            update={
                "methods": {**found.methods, "simclr": recipe},
                "backbones": {**found.backbones, self.backbone: backbone},
                "training": found.training.model_copy(update=training),
            }
        )

    @property
    def manifest(self) -> Manifest:
        """The facts about its images that a cell reads."""
        return Manifest.model_construct(
            shape=(self.channels, self.side, self.side),
            classes=tuple("0123456789"),
            mean=(0.5,) * self.channels,
            std=(0.25,) * self.channels,
            splits={"train": Split.model_construct(count=IMAGES)},
        )

    def images(self) -> Tensor:
        """Made-up images, uint8 (N, C, H, W)."""
        import torch  # later than the module: the parent of the timed processes never loads it

        shape = (IMAGES, self.channels, self.side, self.side)
        return torch.randint(
            256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
        )


MINI_RESNET = Case("mini-resnet", "mini", "resnet", "bn", 28, 1, 64, "float32", {})
MINI_VIT = Case("mini-vit", "mini", "vit", "ln", 28, 1, 64, "float32", {})
COLOUR_RESNET = replace(MINI_RESNET, name="mini-resnet-colour", side=32, channels=3, batch=256)
COLOUR_VIT = replace(
    MINI_VIT, name="mini-vit-colour", side=32, channels=3, batch=256, changed={"patch_size": 8}
)
RESNET18 = Case(
    "resnet18", "cifar10", "resnet", "bn", 32, 3, 256, "float32", RESNET18_SIZE | STEM, WIDE_HEAD
)
RESNET18_BF16 = replace(RESNET18, name="resnet18-bf16", precision="bfloat16")

CIFAR_RESNET = Case(
    "cifar10-resnet18", "cifar10", "resnet", "bn", 32, 3, 512, "bfloat16",
    RESNET18_SIZE | SMALL_STEM, WIDE_HEAD,
)  # fmt: skip
CIFAR_VIT = Case(
    "cifar10-vit-tiny", "cifar10", "vit", "ln", 32, 3, 512, "bfloat16", VIT_TINY_SIZE, WIDE_HEAD
)

CASES: dict[str, tuple[Case, ...]] = {
    "cpu": (MINI_RESNET, MINI_VIT, COLOUR_RESNET, COLOUR_VIT, RESNET18, RESNET18_BF16),
    "cuda": (CIFAR_RESNET, CIFAR_VIT),
}
"""By the type of the device."""
