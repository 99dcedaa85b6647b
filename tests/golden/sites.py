"""The lists of the norms of timm's models; `python -m tests.golden.sites` writes them again."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent / "sites"

IMAGES = {
    "resnet18": 224, "resnet34": 224, "resnet50": 224, "resnet101": 224, "wide_resnet50_2": 224,
    "resnext50_32x4d": 224, "resnetv2_50": 224, "regnety_008": 224, "efficientnet_b0": 224,
    "mobilenetv3_large_100": 224, "convnext_tiny": 224, "convnextv2_tiny": 224,
    "vit_tiny_patch16_224": 224, "vit_small_patch16_224": 224, "vit_base_patch16_224": 224,
    "deit3_small_patch16_224": 224, "vit_small_patch14_reg4_dinov2": 518,
    "vit_small_patch16_dinov3": 256, "swin_tiny_patch4_window7_224": 224,
    "maxvit_tiny_tf_224": 224,
}  # fmt: skip
"""Models and the side of timm's images."""


def main() -> None:
    """Writes all lists."""
    import torch

    from benchmark.backbones.base import ImageShape
    from benchmark.cli.sites import listing
    from benchmark.components import registry
    from benchmark.norms.factory import SectionNorms

    FOLDER.mkdir(exist_ok=True)
    for model, side in IMAGES.items():
        with torch.device("meta"):
            norms, shape = SectionNorms("backbone", {"norm": "own"}), ImageShape(3, side, side)
            found = registry.build("backbone", "timm", shape, norms, architecture=model)
        text = "\n".join(listing(found)) + "\n"
        (FOLDER / f"{model}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
