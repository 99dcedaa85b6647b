"""Each source gives the images that its format says, and refuses what is not in that format."""

from __future__ import annotations

import gzip
import os
import struct
import tarfile
from hashlib import md5
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from benchmark.components import registry
from benchmark.core.errors import ParamsError, UserError
from benchmark.data.fetch import RemoteFile
from benchmark.data.pool import Pool
from benchmark.data.sources import cifar10, fashion_mnist, folder
from tests.helpers.decoded import decoded, load_image

OFFICIAL = os.environ.get("BENCHMARK_DATA")
official = pytest.mark.skipif(not OFFICIAL, reason="BENCHMARK_DATA names no official files")


def idx(values: np.ndarray) -> bytes:
    sizes = b"".join(struct.pack(">I", size) for size in values.shape)
    return b"\x00\x00\x08" + bytes([values.ndim]) + sizes + values.astype(np.uint8).tobytes()


def record(label: int, pixels: np.ndarray) -> bytes:
    """A CIFAR-10 record of an image (32, 32, 3), as its authors describe it."""
    return bytes([label]) + b"".join(pixels[:, :, channel].tobytes() for channel in range(3))


PLUGGED = sorted(name for name, facts in registry.catalogue("source").items() if "where" in facts)


@pytest.mark.parametrize("name", PLUGGED)
def test_a_plug_in_reads_the_same_images_each_time(name: str, tmp_path: Path) -> None:
    """With the options of its `example`. A Pool checks the shapes, types and parts itself."""
    options = registry.complete("source", name, registry.facts("source", name).get("example", {}))
    first, second = (registry.load("source", name).read(options, tmp_path) for _ in range(2))
    assert isinstance(first, Pool)
    assert torch.equal(first.tensor, second.tensor)
    assert torch.equal(first.labels, second.labels)
    assert first.labels.unique().tolist() == list(range(len(first.classes)))


# --- Fashion-MNIST


def test_idx_values_and_their_shape() -> None:
    pixels = np.arange(2 * 3 * 5).reshape(2, 3, 5)
    found = fashion_mnist.idx(gzip.compress(idx(pixels)))
    assert found.dtype == torch.uint8
    assert (found.numpy() == pixels).all()


def test_fashion_mnist_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": random.integers(0, 256, (6, 28, 28)),
        "train-labels-idx1-ubyte.gz": np.array([0, 1, 2, 3, 4, 5]),
        "t10k-images-idx3-ubyte.gz": random.integers(0, 256, (2, 28, 28)),
        "t10k-labels-idx1-ubyte.gz": np.array([8, 9]),
    }
    sums = {}
    for name, values in arrays.items():
        content = gzip.compress(idx(values))
        (tmp_path / name).write_bytes(content)
        sums[name] = md5(content).hexdigest()
    monkeypatch.setenv("BENCHMARK_DATA", str(tmp_path))
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: expected md5 8d4fb7e6"):
        fashion_mnist.read({}, tmp_path / "cache")
    monkeypatch.setattr(fashion_mnist, "CHECKSUMS", sums)
    pool = fashion_mnist.read({}, tmp_path / "cache")
    assert pool.labels[pool.parts["train"]].tolist() == [0, 1, 2, 3, 4, 5]
    test = pool.tensor[pool.parts["test"]]
    assert (test[:, 0].numpy() == arrays["t10k-images-idx3-ubyte.gz"]).all()


@official
def test_official_fashion_mnist(tmp_path: Path) -> None:
    pool = fashion_mnist.read({}, tmp_path)
    assert pool.tensor.shape == (70000, 1, 28, 28)
    assert histogram(pool, "train") == [6000] * 10
    assert histogram(pool, "test") == [1000] * 10
    # The published mean and standard deviation of the training pixels.
    train = pool.tensor[pool.parts["train"]].double() / 255
    assert float(train.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(train.std(correction=0)) == pytest.approx(0.3530, abs=5e-5)
    # An ankle boot comes first; trousers are tall, so that their outer columns are empty.
    assert pool.classes[int(pool.labels[0])] == "Ankle boot"
    trousers = pool.tensor[pool.labels == pool.classes.index("Trouser")].double().mean((0, 1))
    assert trousers[:, 0].mean() < 1 < 50 < trousers[:, 14].mean()


# --- CIFAR-10


PIXELS = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)


@pytest.fixture
def cifar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with six made-up batches of one of PIXELS each, labelled with the batch's number."""
    data = tmp_path / "data" / "cifar-10-batches-bin"
    data.mkdir(parents=True)
    files = []
    for number, file in enumerate(cifar10.BATCHES):
        content = record(number, PIXELS[number])
        (data / file.path).write_bytes(content)
        files.append(RemoteFile(file.path, md5(content).hexdigest()))
    monkeypatch.setattr(cifar10, "BATCHES", tuple(files))
    monkeypatch.setenv("BENCHMARK_DATA", str(data.parent))
    return data


def test_cifar_from_unpacked_files(cifar: Path, tmp_path: Path) -> None:
    pool = cifar10.read({}, tmp_path / "cache")
    assert pool.labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert (pool.tensor.numpy() == PIXELS.transpose(0, 3, 1, 2)).all()
    assert {name: part.tolist() for name, part in pool.parts.items()} == {
        "train": [0, 1, 2, 3, 4],
        "test": [5],
    }


def test_cifar_from_the_archive(
    cifar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = cifar10.read({}, tmp_path / "cache")
    archive = tmp_path / "archive" / "cifar-10-binary.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(cifar, cifar.name)
    checksum = md5(archive.read_bytes()).hexdigest()
    monkeypatch.setattr(cifar10, "ARCHIVE", RemoteFile(archive.name, checksum))
    monkeypatch.setenv("BENCHMARK_DATA", str(archive.parent))
    pool = cifar10.read({}, tmp_path / "cache")
    assert torch.equal(pool.tensor, expected.tensor)
    assert torch.equal(pool.labels, expected.labels)


def test_cifar_batch_missing(cifar: Path, tmp_path: Path) -> None:
    (cifar / "data_batch_4.bin").unlink()
    with pytest.raises(UserError, match=r"expected all six batches.*no data_batch_4\.bin"):
        cifar10.read({}, tmp_path / "cache")


def test_cifar_batch_damaged(cifar: Path, tmp_path: Path) -> None:
    (cifar / "test_batch.bin").write_bytes(b"\0" * 3073)
    found = md5(b"\0" * 3073).hexdigest()
    with pytest.raises(UserError, match=f"test_batch.bin: expected md5 [0-9a-f]+, found {found}"):
        cifar10.read({}, tmp_path / "cache")


@official
def test_official_cifar10(tmp_path: Path) -> None:
    pool = cifar10.read({}, tmp_path)
    assert pool.tensor.shape == (60000, 3, 32, 32)
    assert histogram(pool, "train") == [5000] * 10
    assert histogram(pool, "test") == [1000] * 10
    # The published training statistics; planes in another order would swap them.
    std, mean = torch.std_mean(pool.tensor[pool.parts["train"]].float() / 255, (0, 2, 3))
    assert mean.tolist() == pytest.approx([0.4914, 0.4822, 0.4465], abs=5e-5)
    assert std.tolist() == pytest.approx([0.2470, 0.2435, 0.2616], abs=5e-5)
    # The well-known first images: a frog in training, a cat in the test.
    assert pool.classes[int(pool.labels[0])] == "frog"
    assert pool.classes[int(pool.labels[50000])] == "cat"


def histogram(pool: Pool, part: str) -> list[int]:
    return torch.bincount(pool.labels[pool.parts[part]], minlength=len(pool.classes)).tolist()


# --- the user's own folder


def read(path: str | Path, size: int = 8, channels: int = 3) -> Pool:
    options = {"path": str(path), "size": size, "channels": channels}
    return decoded(folder.read(registry.complete("source", "folder", options), Path("unused")))


def save(path: Path, colour: tuple[int, int, int], size: tuple[int, int] = (12, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes, `b` made before `a`, in every format, with files that are not images."""
    root = tmp_path / "photos"
    for value, name in enumerate(("b/3.PNG", "b/1.jpg", "b/2.JPEG"), 1):
        save(root / name, (200, 0, value))
    for value, name in enumerate(("a/z.bmp", "a/deep/y.webp", "a/x.gif"), 1):
        save(root / name, (0, 200, value))
    for name in ("b/notes.txt", "b/.hidden.png", ".git/x.png", "a/.cache/y.png", "loose.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"not an image")
    return root


def test_folder_classes_and_order(photos: Path, tmp_path: Path) -> None:
    pool = read(photos, 6)
    assert pool.classes == ("a", "b")
    assert pool.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pool.parts["all"].tolist() == [0, 1, 2, 3, 4, 5]
    assert pool.tensor.shape == (6, 3, 6, 6)
    red, green = pool.tensor[:, 0].double().mean((1, 2)), pool.tensor[:, 1].double().mean((1, 2))
    assert (red < 20).tolist() == [True, True, True, False, False, False]
    assert (green < 20).tolist() == [False, False, False, True, True, True]
    # The lossless ones show that images are in the order of their names.
    assert pool.tensor[5, :, 0, 0].tolist() == [200, 0, 1]
    assert pool.tensor[2, :, 0, 0].tolist() == [0, 200, 1]


def test_folder_in_grey(photos: Path, tmp_path: Path) -> None:
    pool = read(photos, 6, channels=1)
    # Rec. 601 luma of (200, 0, 1).
    assert pool.tensor.shape == (6, 1, 6, 6)
    assert int(pool.tensor[5, 0, 0, 0]) == round(0.299 * 200 + 0.114)


def test_centre_is_cut_from_the_longer_side(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    assert (load_image(tmp_path / "wide.png", 10, 3) == 255).all()
    Image.fromarray(pixels.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    assert (load_image(tmp_path / "tall.png", 10, 3) == 255).all()


def test_shrinking_is_antialiased(tmp_path: Path) -> None:
    # Picking pixels from a fine chessboard would leave black or white; averaging leaves grey.
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "board.png")
    small = load_image(tmp_path / "board.png", 8, 1)[:, 1:-1, 1:-1]
    assert 120 <= int(small.min()) <= int(small.max()) <= 135


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(tmp_path: Path, orientation: int) -> None:
    """The stored arrays are the upright one turned, by NumPy, as the EXIF standard defines."""
    upright = np.zeros((8, 8), dtype=np.uint8)
    upright[:4, :2] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "o.png", exif=exif)
    assert (load_image(tmp_path / "o.png", 8, 1)[0].numpy() == upright).all()


def test_sixteen_bits_keep_their_tones(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 65536, 257, dtype=np.uint16), (256, 1))
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    assert load_image(tmp_path / "ramp.png", 256, 1)[0, 0].tolist() == list(range(256))


@pytest.mark.parametrize(("dtype", "value"), [(np.float32, 0.5), (np.int32, 2**16), (np.int32, -1)])
def test_pixels_of_an_unknown_range_are_refused(tmp_path: Path, dtype: type, value: float) -> None:
    Image.fromarray(np.full((8, 8), value, dtype)).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=r"x\.tif: expected an image, found ValueError: "):
        load_image(tmp_path / "x.tif", 8, 1)


HIDDEN = (10, 200, 30)
"""The colour of the pixels that nobody sees."""


def transparent(mode: str) -> Image.Image:
    """An image of 4×4 opaque red pixels (or grey ones of 76), its right half transparent."""
    image = Image.new("RGBA", (4, 4), (255, 0, 0, 255))
    image.paste((*HIDDEN, 0), (2, 0, 4, 4))
    if mode == "P":
        palette = Image.new("P", (4, 4), 0)
        palette.putpalette([255, 0, 0, *HIDDEN])
        palette.paste(1, (2, 0, 4, 4))
        palette.info["transparency"] = 1
        return palette
    if mode in ("RGB", "L"):
        plain = image.convert(mode)
        plain.info["transparency"] = HIDDEN if mode == "RGB" else plain.getpixel((3, 0))
        return plain
    return image.convert(mode)


@pytest.mark.parametrize(("ground", "value"), [("white", 255), ("black", 0)])
@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB", "L"])
def test_transparent_pixels_show_the_ground(
    tmp_path: Path, mode: str, ground: str, value: int
) -> None:
    path = tmp_path / "x.png"
    transparent(mode).save(path, transparency=transparent(mode).info.get("transparency"))
    seen = [76] * 3 if mode.startswith("L") else [255, 0, 0]
    colour = load_image(path, 4, 3, ground)
    assert colour[:, 0, 0].tolist() == colour[:, 3, 1].tolist() == seen
    assert (colour[:, :, 2:] == value).all()
    grey = load_image(path, 4, 1, ground)[0]
    assert grey[0].tolist() == [76, 76, value, value]


def test_half_transparent_pixels_are_mixed_with_the_ground(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[:8, :, 3] = 255
    Image.fromarray(pixels).save(path)
    alpha = pixels[:, :, 3:] / 255
    for ground, value in (("white", 255), ("black", 0)):
        found = load_image(path, 16, 3, ground).permute(1, 2, 0).numpy()
        expected = alpha * pixels[:, :, :3] + (1 - alpha) * value
        assert np.abs(found - expected).max() <= 1
        assert (found[:8] == pixels[:8, :, :3]).all()


def test_cmyk_and_palettes_become_colours(tmp_path: Path) -> None:
    """Without a profile: each ink takes its share of the light away."""
    inks = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "x.tif")
    light = 1 - inks / 255
    expected = 255 * light[:, :, :3] * light[:, :, 3:]
    found = load_image(tmp_path / "x.tif", 8, 3).permute(1, 2, 0).numpy()
    assert np.abs(found - expected).max() <= 1
    colours = np.random.default_rng(1).integers(0, 256, (256, 3), dtype=np.uint8)
    index = np.arange(256, dtype=np.uint8).reshape(16, 16)
    palette = Image.fromarray(index, "P")
    palette.putpalette(colours.tobytes())
    palette.save(tmp_path / "x.png")
    found = load_image(tmp_path / "x.png", 16, 3).permute(1, 2, 0).numpy()
    assert (found == colours[index]).all()


def test_too_many_pixels_are_refused_with_a_way_on(tmp_path: Path) -> None:
    path, limit = tmp_path / "large.png", Image.MAX_IMAGE_PIXELS
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(UserError) as error:
        load_image(path, 4, 1)
    assert str(error.value) == (
        f"{path}: expected at most 180 megapixels, found 20000 × 10000 pixels; make the image "
        "smaller or raise data.options.max_megapixels"
    )
    assert (load_image(path, 4, 1, max_megapixels=200) == 0).all()
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_strip_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "strip.png"
    Image.new("L", (40_000, 1)).save(path)
    with pytest.raises(UserError) as error:
        load_image(path, 100, 1)
    assert str(error.value) == (
        f"{path}: expected at most 180 megapixels once the shorter side is 100, found 4000000 × 100 "
        "pixels; make it less oblong or raise data.options.max_megapixels"
    )
    assert (load_image(path, 4, 1) == 0).all()


def test_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert load_image(tmp_path / "a.gif", 8, 3)[:, 0, 0].tolist() == [255, 0, 0]


def test_unreadable_image_is_named(photos: Path, tmp_path: Path) -> None:
    bad = photos / "b" / "4.png"
    bad.write_bytes(b"not an image\n")
    with pytest.raises(UserError, match=r"4\.png: expected an image") as error:
        read(photos)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "gif", "tif"])
def test_truncated_image_is_named(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UserError, match=f"cut.{suffix}: expected an image"):
        load_image(path, 32, 3)


def test_too_few_images_of_a_class(photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "x.gif").unlink()
    with pytest.raises(UserError, match=r"class 'a': expected at least 3 images.*found 2"):
        read(photos)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", r"data\.options\.path is '': expected the folder with the class folders$"),
        ("no/such", r"data\.options\.path is 'no/such': .* found none at /.*/no/such$"),
        ("~no-such-user/x", "found none at /.*/~no-such-user/x$"),
        ("x" * 300, "found none at /"),
    ],
)
def test_a_path_to_no_folder_is_refused(path: str, message: str) -> None:
    with pytest.raises(ParamsError, match=message):
        read(path)


def test_folder_without_classes(tmp_path: Path) -> None:
    save(tmp_path / "x.png", (0, 0, 0))
    (tmp_path / ".git").mkdir()
    with pytest.raises(UserError, match=r"expected a folder for each class in .*, found none"):
        read(tmp_path)
    save(tmp_path / "only" / "x.png", (0, 0, 0))
    with pytest.raises(UserError, match=r"at least 2 class folders in .*, found 1 \(only\)"):
        read(tmp_path)
