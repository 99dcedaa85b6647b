"""A track of a user's own images: `params.yaml` and two pipelines that fit what is in their folder."""

from __future__ import annotations

import hashlib
import statistics
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmark.components.facts import NAME
from benchmark.config.params import track_file
from benchmark.core.errors import ParamsError, UserError
from benchmark.core.wording import counted
from benchmark.data.class_folders import Found, existing, find, find_unlabelled, listed
from benchmark.data.decode import FORMATS
from benchmark.data.manifest import UNLABELLED
from benchmark.scaffold.render import render

SHARES = {"train": 0.7, "validation": 0.15, "test": 0.15}

SAMPLE = 1000
"""Images whose headers are read."""

LARGEST = 64
"""Side of the images in pixels if the user names none, so that a first table takes minutes on a CPU."""

CROPPED = 128
"""Larger networks see crops of images that are stored with an eighth of a margin."""

EPOCHS, LENGTHS = 90, (64_000, 128_000)
"""A training run has so many passes over the training images, within these numbers of images in all.
It always sees each image once."""

BATCH, QUEUE, CALIBRATION = 64, 4096, 128
"""The largest batch, MoCo's largest queue and the largest batch in which BN's statistics are
re-estimated."""

FEWEST = 32
"""The smallest number of training images."""

TAKEN = ("mini", "downloads")
"""The track at the top of the project, and a folder beside the tracks' images."""

SMALL_RESNET = {"channels": [8, 16, 32, 64], "layers": [1, 1, 1, 1], "branch_gain": 1}
SMALL_VIT = {"embed_dim": 64, "depth": 2, "num_heads": 2, "mlp_ratio": 4}
SCALES: dict[int, dict[str, Any]] = {
    32: {
        "resnet": SMALL_RESNET | {"stem_kernel": 3, "stem_stride": 2, "stem_pool": False},
        "vit": SMALL_VIT,
        "side": 4,
        "groups": 4,
    },
    128: {
        "resnet": SMALL_RESNET | {"stem_kernel": 3, "stem_stride": 2, "stem_pool": True},
        "vit": SMALL_VIT,
        "side": 8,
        "groups": 4,
    },
    # ResNet-18 (He et al. 2016, 1512.03385, table 1) and ViT-Tiny with patches of 16 pixels (Touvron et
    # al. 2021, 2012.12877, table 1).
    1024: {
        "resnet": {
            "channels": [64, 128, 256, 512], "layers": [2, 2, 2, 2], "branch_gain": 1,
            "stem_kernel": 7, "stem_stride": 2, "stem_pool": True,
        },
        "vit": {"embed_dim": 192, "depth": 12, "num_heads": 3, "mlp_ratio": 4},
        "side": 16,
        "groups": 32,
    },
}  # fmt: skip
"""Networks by the largest side of the images that they are for. That side is a multiple of `side`: up to
128 pixels it is divided into `side` × `side` patches, above into patches of `side` pixels. The small
networks are those of the track `mini`, which learn in minutes on a CPU."""


def write(
    root: Path, name: str, images: str, evaluate: str | None, size: int | None, title: str
) -> str:
    """Writes `tracks/NAME` with a `params.yaml` and two `dvc.yaml`, and returns what it found.

    `images` is a folder that `benchmark.data.class_folders` can read; with `evaluate`, which is such a
    folder, it holds images without classes. `size` is the side of the images in pixels. Raises UserError
    for a name that is wrong or taken, a folder that cannot be used and a size that is not allowed.
    """
    folder = _new(root, name)
    labelled = _labelled("--evaluate" if evaluate else "--images", evaluate or images)
    classes = [of for part in labelled.parts.values() for of in part.values()]
    unlabelled = _unlabelled(images) if evaluate else []
    files = [*unlabelled, *(f"{labelled.root}/{name}" for name in labelled.names)]
    short, channels = _looks(files)
    side = _side(size, short)
    stored = _stored(side, short)
    splits, count = _splits(labelled)
    if count < FEWEST:
        raise UserError(
            f"{evaluate or images}: {counted(sum(map(len, classes)), 'image')}, of which {count} would "
            f"be for training; expected at least {FEWEST} for training"
        )
    shares = "all" in labelled.parts
    options = {"train": images, "evaluate": evaluate} if evaluate else {"path": images}
    if evaluate:
        # A share, because copies of images of other splits are left out.
        splits |= {UNLABELLED: 1.0}
    values = {
        "track": name, "title": title, "evaluate": evaluate, "shares": shares, "splits": splits,
        "options": {**options, "size": stored, "channels": channels}, "count": count,
        "seen": side if stored > side else None,
        "drawn": "validation" not in labelled.parts, "colour": channels == 3,
        **_networks(side), **_lengths(count, count + len(unlabelled)),
    }  # fmt: skip
    texts = {
        "params.yaml": render("params.yaml.j2", **values),
        "dvc.yaml": render("dvc.yaml.j2", track=name, seen=values["seen"]),
        "sweep/dvc.yaml": render("sweep.yaml.j2", track=name, seen=values["seen"]),
    }
    _write(folder, texts)
    of = f" of {stored}×{stored}" if stored > side else ""
    larger = ", more than the images have: they are enlarged" if side > short else ""
    smaller = "; --size 224 asks for more, and for a GPU" if size is None and side < short else ""
    lines = [
        f"{counted(len(files), 'image')}, {len(next(iter(labelled.parts.values())))} classes, "
        f"{'colour' if channels == 3 else 'grey'}, shorter side {short} pixels at the median",
        f"networks get {side}×{side} pixels{of}{larger}{smaller}",
        *([f"ignored files: {listed(labelled.ignored)}"] if labelled.ignored else []),
        f"written: tracks/{name}/params.yaml, which you can edit, and two pipelines",
        "",
        f"uv run benchmark plan --track {name}           # lists what the next command trains",
        f"uv run dvc repro tracks/{name}/dvc.yaml        # the first table, at default learning rates",
        f"uv run dvc repro tracks/{name}/sweep/dvc.yaml  # the fair one, at tuned rates: hours on a CPU",
    ]
    return "\n".join(lines)


def _new(root: Path, name: str) -> Path:
    """The folder of a new track; UserError if the name is wrong or taken."""
    if not NAME.fullmatch(name):
        raise UserError(f"NAME is {name!r}, expected letters, digits and - _ . between them")
    track_file(root, "mini")
    # Names that differ only in case are one folder on some systems.
    for other in (*TAKEN, *(path.name for path in (root / "tracks").glob("*"))):
        if other.casefold() == name.casefold():
            raise UserError(f"NAME is {name!r}, expected a new name: {other!r} is taken")
    return root / "tracks" / name


def _write(folder: Path, texts: Mapping[str, str]) -> None:
    """Writes the files of a new folder, all or none; UserError if they cannot be written."""
    try:
        folder.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-") as part:
            for file, text in texts.items():
                path = Path(part, folder.name, file)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
            Path(part, folder.name).rename(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror}") from error


def _directory(option: str, given: str) -> Path:
    try:
        given.encode()
    except UnicodeEncodeError:
        raise UserError(f"{option} is {given!r}: expected a path in UTF-8") from None
    path = existing(given)
    if path is None:
        raise UserError(f"{option} is {given!r}: expected a folder of images, found none")
    return path


def _labelled(option: str, given: str) -> Found:
    """The images in class folders; UserError that names the option."""
    path = _directory(option, given)
    try:
        found = find(path)
    except ParamsError as error:
        hint = "; images without classes need --evaluate DIR" if option == "--images" else ""
        raise UserError(str(error).replace("data.options.path", option) + hint) from None
    return found


def _unlabelled(given: str) -> list[str]:
    """The paths of images in a folder and in all folders in it."""
    root = _directory("--images", given)
    try:
        names, _ = find_unlabelled(root)
    except ParamsError as error:
        raise UserError(str(error).replace("data.options.train", "--images")) from None
    return [f"{root}/{name}" for name in names]


def _looks(files: Sequence[str]) -> tuple[int, int]:
    """The median of the shorter sides in pixels, and 1 channel if all images are grey, else 3.

    From the headers of a sample that is spread evenly over the files.
    """
    sides, modes = [], set()
    for path in files[:: -(-len(files) // SAMPLE)]:
        try:
            with warnings.catch_warnings():
                # The data source has a limit of its own.
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(path, formats=FORMATS) as image:
                    sides.append(min(image.size))
                    modes.add(Image.getmodebase(image.mode))
        except Exception as error:
            # Decoders raise many kinds of errors for damaged files.
            raise UserError(
                f"{path}: expected an image, found {type(error).__name__}: {error}; correct or remove it"
            ) from None
    return statistics.median_low(sides), 1 if modes == {"L"} else 3


def _side(given: int | None, short: int) -> int:
    """The side of the images in pixels: the given one, or else that of the images up to LARGEST."""
    side = min(short, LARGEST) if given is None else given
    wrong = side % _scale(side)["side"] if side <= max(SCALES) else side
    if given is not None and (wrong or side < 8):
        raise UserError(
            f"--size is {given}, expected a multiple of 4 from 8 to 32, of 8 to 128 or of 16 to 1024"
        )
    return max(side - wrong, 8)


def _stored(side: int, short: int) -> int:
    """The side of the stored images, from which large views are cropped: 256 pixels for 224."""
    return max(side, min(short, round(side * 8 / 7))) if side > CROPPED else side


def _scale(side: int) -> dict[str, Any]:
    return next(scale for largest, scale in SCALES.items() if side <= largest)


def _networks(side: int) -> dict[str, Any]:
    """The arguments of both backbones and what depends on them, for square images."""
    scale = _scale(side)
    patch = scale["side"] if side > 128 else side // scale["side"]
    # The last maps of a network for the smallest images would otherwise have one position.
    stem = {"stem_stride": 1} if side < 24 else {}
    return {
        "resnet": scale["resnet"] | stem,
        "vit": scale["vit"] | {"patch_size": patch},
        "groups": scale["groups"],
        "hidden": 2 * scale["resnet"]["channels"][-1],
    }


def _splits(found: Found) -> tuple[dict[str, Any], int]:
    """The entry `data.splits` and the number of training images, or a lower bound of it for shares."""
    sizes = {name: sum(map(len, part.values())) for name, part in found.parts.items()}
    if "all" in sizes:
        train = sum(int(SHARES["train"] * len(files)) for files in found.parts["all"].values())
        return dict(SHARES), train
    if "validation" not in sizes:
        # Where images are drawn by numbers, exact copies are left out.
        classes = found.parts["train"].values()
        sizes["train"] = sum(
            _different([found.root / name for name in members]) for members in classes
        )
        sizes["validation"] = max(len(classes), round(SHARES["validation"] * sizes["train"]))
        sizes["train"] -= sizes["validation"]
    return {name: sizes[name] for name in SHARES}, sizes["train"]


def _different(files: Sequence[Path]) -> int:
    """The number of files without copies; only files of equal size are read."""
    by_size = defaultdict(list)
    for path in files:
        by_size[path.stat().st_size].append(path)
    return sum(
        len({hashlib.sha256(path.read_bytes()).digest() for path in same}) if same[1:] else 1
        for same in by_size.values()
    )


def _lengths(count: int, images: int) -> dict[str, int]:
    """Batch sizes, a queue and a length for `count` labelled training images of `images` in all."""
    batch = min(BATCH, 1 << ((count // 4).bit_length() - 1))
    length = max(LENGTHS[0], min(EPOCHS * images, LENGTHS[1]), images)
    return {
        "batch": batch,
        "queue": min(count // 4, QUEUE) // batch * batch,
        "calibration": min(CALIBRATION, 2 * batch),
        "length": length,
        "epochs": length // images,
    }
