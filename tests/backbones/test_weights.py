"""A backbone that starts from a file is the network that timm makes of the same file."""

from __future__ import annotations

import argparse
import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor

from benchmark.backbones import weights
from benchmark.backbones.base import ImageShape
from benchmark.backbones.pixels import Pixels
from benchmark.backbones.timm_backbone import TimmBackbone
from benchmark.components import registry
from benchmark.config import weights as files
from benchmark.core.errors import UserError
from tests.helpers import small

MODELS = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]
COLOUR, GREY, WIDE = ImageShape(3, 64, 64), ImageShape(1, 64, 64), ImageShape(3, 160, 160)


def model(name: str, seed: int = 0, **arguments: Any) -> Any:
    """A model of timm whose every tensor is off its initial value, in evaluation mode."""
    torch.manual_seed(seed)
    made = timm.create_model(name, **arguments)
    small.stir(made, seed)
    for key, buffer in made.named_buffers():
        if key.endswith("running_mean"):
            buffer.normal_()
        elif key.endswith("running_var"):
            buffer.uniform_(0.5, 2)
        elif key.endswith("num_batches_tracked"):
            buffer.fill_(7)
    return made.eval()


def backbone(name: str, shape: ImageShape, norm: str = "own", **options: Any) -> TimmBackbone:
    given = {"architecture": name, **options} if name not in ("resnet", "vit") else options
    kind = name if name in ("resnet", "vit") else "timm"
    norms = small.norms(norm) if norm != "own" else small.SectionNorms("backbone", {"norm": "own"})
    made: TimmBackbone = registry.build("backbone", kind, shape, norms, **given)
    return made.eval()


def noise(shape: ImageShape) -> Tensor:
    return torch.randn(3, *shape, generator=torch.Generator().manual_seed(1))


def stored(folder: Path, state: Mapping[str, Tensor]) -> tuple[str, str]:
    """The path of a file and its checksum."""
    path = folder / "file.safetensors"
    save_file({name: value.contiguous() for name, value in state.items()}, path)
    return str(path), hashlib.sha256(path.read_bytes()).hexdigest()


@torch.no_grad()
@pytest.mark.parametrize("shape", [WIDE, COLOUR, GREY], ids=["as it is", "smaller", "grey"])
@pytest.mark.parametrize("name", MODELS)
def test_it_embeds_like_the_model_into_which_timm_loads_the_file(
    tmp_path: Path, name: str, shape: ImageShape
) -> None:
    file, sha256 = stored(tmp_path, model(name).state_dict())
    own = backbone(name, shape)
    said = weights.load(own, weights.read(file, sha256))
    size: dict[str, Any] = {"img_size": shape[1:]} if "vit" in name else {}
    theirs = timm.create_model(
        name, pretrained=True, pretrained_cfg_overlay={"file": file}, num_classes=0,
        in_chans=shape.channels, **size,
    )  # fmt: skip
    x = noise(shape)
    assert torch.equal(own(x), theirs.eval()(x))
    assert said.initial == ()
    assert {key.rpartition(".")[2] for key in said.left_out} == {"weight", "bias"}
    assert len(said.left_out) == 2
    assert said.tensors == len(model(name).state_dict()) - 2
    expected = {
        key: value.shape
        for key, value in theirs.state_dict().items()
        if value.shape != model(name).state_dict()[key].shape
    }
    assert {entry.partition(":")[0] for entry in said.changed} == set(expected)
    for key, after in expected.items():
        before = tuple(model(name).state_dict()[key].shape)
        assert f"{key}: {before} → {tuple(after)}" in said.changed


@pytest.mark.parametrize(
    ("name", "norm", "place", "here"),
    [
        ("test_resnet", "bn", "layer1.0.bn1", ""),
        ("test_efficientnet", "gn", "blocks.1.0.bn1", "norm."),
        ("test_convnext", "bn", "stages.0.blocks.0.norm", "norm."),
        ("test_vit", "bn", "blocks.0.norm1", "layer."),
        ("test_vit", "ghost-bn", "blocks.0.norm1", "layer."),
        ("test_resnet", "gn-ws", "layer1.0.bn1", ""),
        ("test_vit", "rmsnorm", "blocks.0.norm1", ""),
    ],
)
def test_norms_take_what_has_their_name_whatever_is_around_them(
    name: str, norm: str, place: str, here: str
) -> None:
    state = model(name).state_dict()
    own = backbone(name, COLOUR, norm)
    said = weights.load(own, state)
    found = own.net.state_dict()
    assert torch.equal(found[f"{place}.{here}weight"], state[f"{place}.weight"])
    biased = norm != "rmsnorm"
    assert biased == (f"{place}.bias" not in said.left_out)
    if biased:
        assert torch.equal(found[f"{place}.{here}bias"], state[f"{place}.bias"])
    # Everything outside of norms is as in the file, and is there under one of the two names.
    paths = tuple(f"{site.path}." for site in own.sites.norms)
    others = {key for key in state if not key.startswith(paths)} - set(said.left_out)
    others -= {"pos_embed"}  # of fewer positions here
    assert all(torch.equal(found[key], state[key]) for key in others)
    assert len(others) > 10


def test_what_a_norm_has_no_use_for_and_what_the_file_lacks_is_stated() -> None:
    state = model("test_resnet").state_dict()
    norms = [key for key in state if key.endswith(("running_mean", "running_var", "_tracked"))]
    said = weights.load(backbone("test_resnet", COLOUR, "gn"), state)
    assert set(said.left_out) == {*norms, "fc.weight", "fc.bias"}
    assert (said.initial, said.changed) == ((), ())
    own = backbone("test_vit", WIDE, "bn")
    said = weights.load(own, model("test_vit").state_dict())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert set(said.initial) == {
        f"{site.path}.{key}" for site in own.sites.norms for key in statistics
    }
    assert all(
        bool((value == (1 if "running_var" in key else 0)).all())
        for key, value in own.net.state_dict().items()
        if key.endswith(statistics)
    )
    skip = backbone("test_resnet", COLOUR, "none-skipinit")
    said = weights.load(skip, state)
    assert said.initial == tuple(f"layer{stage}.0.drop_path.gain" for stage in (1, 2, 3, 4))
    text = str(said)
    assert text.startswith(f"{said.tensors} tensors loaded; left out: conv1.1.weight, ")
    assert f" and {len(said.left_out) - 4} more; kept at their initial values: layer1" in text


@pytest.mark.parametrize("name", ["resnet", "vit"])
@pytest.mark.parametrize("norm", ["bn", "ln"])
def test_the_components_take_their_own_weights(name: str, norm: str) -> None:
    options = small.options("backbone", name)
    source = backbone(name, GREY, norm, **options)
    small.stir(source, 3)
    classifier = {"resnet": "fc", "vit": "head"}[name]
    state = {**source.tensors(), f"{classifier}.weight": torch.ones(4, source.width)}
    own = backbone(name, GREY, norm, **options)
    said = weights.load(own, state)
    assert said.left_out == (f"{classifier}.weight",)
    x = noise(GREY)
    assert torch.equal(own(x), source(x))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module.backbone.", ""])
def test_the_names_of_wrappers_are_removed(prefix: str) -> None:
    state = model("test_resnet").state_dict()
    own = backbone("test_resnet", COLOUR)
    said = weights.load(own, {prefix + key: value for key, value in state.items()})
    assert said.changed == tuple(f"names: without {part}." for part in prefix.split(".")[:-1])
    assert torch.equal(own.net.layer1[0].conv1.weight, state["layer1.0.conv1.weight"])


def test_names_of_other_programs_are_those_that_timm_converts() -> None:
    """Facebook's ConvNeXt names, of which timm's filter knows the form."""
    state = model("test_convnext").state_dict()
    renamed = {
        "stem.": "downsample_layers.0.", ".conv_dw.": ".dwconv.", ".mlp.fc1.": ".pwconv1.",
        ".mlp.fc2.": ".pwconv2.", "head.norm.": "norm.", "head.fc.": "head.",
    }  # fmt: skip
    theirs = {}
    for key, value in state.items():
        name = key.replace(".blocks.", ".")
        for timm_name, other in renamed.items():
            name = name.replace(timm_name, other)
        if ".downsample." in name:
            stage = int(name.split(".")[1])
            name = f"downsample_layers.{stage}.{name.split('.downsample.')[1]}"
        theirs[name] = value
    own = backbone("test_convnext", WIDE)
    said = weights.load(own, theirs)
    assert len(said.changed) == 1
    assert "timm makes" in said.changed[0]
    found = own.net.state_dict()
    assert set(state) - set(found) == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(found[key], state[key]) for key in found)


def refusal(own: Any, state: Mapping[str, Tensor]) -> str:
    before = [p.clone() for p in own.parameters()]
    with pytest.raises(UserError) as refused:
        weights.load(own, state)
    assert all(torch.equal(a, b) for a, b in zip(before, own.parameters(), strict=True))
    assert len(str(refused.value).splitlines()) == 1
    return str(refused.value)


def test_another_network_is_refused_with_the_tensor_and_both_shapes() -> None:
    state = model("test_resnet").state_dict()
    own = backbone("test_resnet", COLOUR)
    wrong = state | {"layer2.0.conv2.weight": torch.ones(7, 5, 3, 3)}
    width = tuple(state["layer2.0.conv2.weight"].shape)
    assert refusal(own, wrong) == (
        f"layer2.0.conv2.weight is (7, 5, 3, 3) in the file and {width} in the network"
    )
    with torch.device("meta"):
        smaller, larger = backbone("resnet18", COLOUR), timm.create_model("resnet50").state_dict()
    with pytest.raises(UserError, match=r"layer1.0.conv1.weight is \(64, 64, 1, 1\) in the file"):
        weights.load(smaller, larger)
    grey = model("test_resnet", in_chans=1).state_dict()
    stem = tuple(grey["conv1.0.weight"].shape)
    said = f"conv1.0.weight is {stem} in the file and ({stem[0]}, 3, 3, 3) in the network"
    assert refusal(own, grey) == said
    changed = backbone("resnet18", GREY, stem={"kernel": 3, "stride": 1})
    assert "conv1.weight is (64, 1, 7, 7) in the file and (64, 1, 3, 3)" in refusal(
        changed, model("resnet18").state_dict()
    )


def test_a_component_converts_nothing() -> None:
    options = small.options("backbone", "vit")
    state = backbone("vit", WIDE, "ln", **options).tensors()
    said = refusal(backbone("vit", COLOUR, "ln", **options), state)
    assert said == "pos_embed is (1, 1601, 16) in the file and (1, 257, 16) in the network"


def test_what_is_missing_or_too_much_is_refused_by_name() -> None:
    state = model("test_resnet").state_dict()
    own = backbone("test_resnet", COLOUR)
    fewer = {key: value for key, value in state.items() if key != "layer1.0.conv1.weight"}
    assert "tensors that the file lacks: layer1.0.conv1.weight" in refusal(own, fewer)
    more = state | {"projector.0.weight": torch.ones(2, 2)}
    assert "tensors that the network lacks: projector.0.weight" in refusal(own, more)
    pooled = backbone("test_vit", WIDE, final_norm="none")
    said = refusal(pooled, model("test_vit").state_dict())
    assert "the network lacks: norm.weight, norm.bias" in said


def test_values_that_the_network_cannot_hold_are_refused() -> None:
    state = model("test_resnet").state_dict()
    name = "layer1.0.conv1.weight"
    said = refusal(backbone("test_resnet", COLOUR), state | {name: state[name].double()})
    assert said == f"{name} is torch.float64 in the file, which torch.float32 cannot hold exactly"
    own = backbone("test_resnet", COLOUR)
    weights.load(own, state | {name: state[name].half()})
    assert torch.equal(own.net.state_dict()[name], state[name].half().float())


def test_a_conversion_that_keeps_the_shape_is_refused() -> None:
    """timm takes 100 positions for 10×10 of its own images, which here are 5×20 in the file too."""
    shape = ImageShape(3, 80, 320)
    own = backbone("test_vit", shape)
    said = refusal(own, model("test_vit", img_size=(80, 320)).state_dict())
    assert said == "timm's conversion changes the values of pos_embed and not its shape"


def test_a_model_that_timm_builds_differently_for_its_weights_is_refused() -> None:
    with torch.device("meta"):
        own = backbone("fbnetc_100", COLOUR)
        state = timm.create_model("fbnetc_100").state_dict()
    with pytest.raises(UserError, match=r"an eps of 0\.001 with weights, not 1e-05"):
        weights.load(own, state)
    with torch.device("meta"):
        weights.load(backbone("fbnetc_100", COLOUR, arguments={"bn_eps": 1e-3}), state)


def test_a_backbone_without_a_network_of_timm_is_refused() -> None:
    made = refusal(Pixels(ImageShape(1, 2, 2)), {"a": torch.ones(1)})
    assert made == "the backbone is not a network of timm"


# The file


def torch_file(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


STATE = {"conv.weight": torch.arange(6.0).view(1, 6), "conv.bias": torch.ones(1)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}


def read(folder: Path, content: bytes, name: str = "file.pth") -> Mapping[str, Tensor]:
    path = folder / name
    path.write_bytes(content)
    return weights.read(str(path), hashlib.sha256(content).hexdigest())


@pytest.mark.parametrize(
    "content",
    [
        torch_file(STATE),
        torch_file(STATE, _use_new_zipfile_serialization=False),
        torch_file({"state_dict": STATE, "epoch": 3, "optimizer": OPTIMIZER}),
        torch_file({"model": STATE, "args": argparse.Namespace(lr=0.1), "scaler": {}}),
    ],
    ids=["state dict", "of old torch", "container", "with arguments"],
)
def test_state_dicts_and_common_containers_are_read(tmp_path: Path, content: bytes) -> None:
    found = read(tmp_path, content)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[key], STATE[key]) for key in STATE)


class Code:
    """Runs when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


def test_what_is_not_tensors_alone_is_refused(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for content, said in [
        (torch_file({"a": Code(ran)}), "expected the tensors of safetensors or torch.save alone"),
        (pickle.dumps({"a": Code(ran)}), "expected the tensors of safetensors or torch.save alone"),
        (b"", "alone"),
        (b"12345678{not json", "alone"),
        (torch_file(STATE)[:-30], "alone"),
        (torch_file({"student": STATE, "teacher": STATE}), "in it, found student, teacher; save"),
        (torch_file({"epoch": 3}), "in it, found none; save"),
        (torch_file({}), "in it, found none; save"),
        (torch_file(torch.ones(2)), "in it, found none; save"),
        (torch_file({"model": {"backbone": STATE}}), "in it, found none; save"),
    ]:
        with pytest.raises(UserError) as refused:
            read(tmp_path, content)
        assert said in str(refused.value)
        assert len(str(refused.value).splitlines()) == 1
    assert not ran.exists()


def test_another_checksum_is_refused(tmp_path: Path) -> None:
    file, sha256 = stored(tmp_path, STATE)
    assert weights.read(file, sha256).keys() == STATE.keys()
    with pytest.raises(UserError, match=f"its sha256 is {sha256}, expected {'0' * 64}"):
        weights.read(file, "0" * 64)
    for path, said in [(tmp_path / "no.pth", "No such file"), (tmp_path, "Is a directory")]:
        with pytest.raises(UserError, match=said):
            weights.read(str(path), sha256)


@pytest.mark.parametrize(
    "name", ["w.npz", "w", "hf-hub:", "hf-hub:owner", "hf-hub:a/b/c", "", "x.pth/"]
)
def test_names_that_cannot_be_weights_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="expected a file whose name ends in"):
        files.check(name, "0" * 64)


def test_the_checksum_to_paste_is_in_the_error(tmp_path: Path) -> None:
    file, sha256 = stored(tmp_path, STATE)
    with pytest.raises(UserError, match=sha256):
        files.check(file, None)
    files.check(str(tmp_path / "not-there.pth"), sha256)  # `plan` needs no file


# The hub


HUB = "hf-hub:timm/test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """A hub with `FILE` in a repository, and what was asked of it; nothing is in the cache."""
    asked: list[tuple[Any, ...]] = []
    served = tmp_path / "served"
    served.mkdir()

    def download(repository: str, file: str, revision: str | None = None, **how: Any) -> str:
        if how.get("local_files_only"):
            raise LocalEntryNotFoundError("not in the cache")
        asked.append((repository, file, revision))
        if not (served / file).is_file():
            raise EntryNotFoundError(f"404: no {file}")
        return str(served / file)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.chdir(served)
    weights.read.cache_clear()
    return asked


@pytest.mark.parametrize("revision", [None, "v1.0"])
def test_a_model_of_the_hub_is_downloaded_and_its_checksum_compared(
    hub: list[tuple[Any, ...]], revision: str | None
) -> None:
    content = torch_file(STATE)
    Path("pytorch_model.bin").write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{HUB}@{revision}" if revision else HUB
    assert weights.read(name, sha256).keys() == STATE.keys()
    repository = "timm/test_resnet.r160_in1k"
    names = ("model.safetensors", "pytorch_model.bin")
    assert hub == [(repository, file, revision) for file in names]
    # The safe format is preferred, and is another file with another checksum.
    save_file(STATE, "model.safetensors")
    with pytest.raises(UserError, match=f"its sha256 is [0-9a-f]{{64}}, expected {sha256}"):
        files.read(name, sha256)


def test_no_network_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def away(repository: str, file: str, **how: Any) -> str:
        tried.append((file, how.get("local_files_only", False)))
        raise LocalEntryNotFoundError("cannot reach the Hub,\nand it is not in the cache")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", away)
    with pytest.raises(UserError) as refused:
        files.read(HUB, "0" * 64)
    assert str(refused.value) == (
        f"weights is '{HUB}', and it cannot be downloaded (LocalEntryNotFoundError: cannot reach the "
        "Hub,); a path to a copy of the file does as well"
    )
    # A server that cannot be reached is not asked for the other file as well.
    assert [file for file, local in tried if not local] == ["model.safetensors"]


def test_a_file_in_the_cache_of_the_hub_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layout of huggingface_hub's own cache, with its own function."""
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0123abcd")
    snapshot = repository / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    save_file(STATE, snapshot / "model.safetensors")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    sha256 = hashlib.sha256((snapshot / "model.safetensors").read_bytes()).hexdigest()
    weights.read.cache_clear()
    assert weights.read(HUB, sha256).keys() == STATE.keys()
    with pytest.raises(UserError, match=f"its sha256 is {sha256}, expected 0{{64}}"):
        files.read(HUB, "0" * 64)
