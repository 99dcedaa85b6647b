"""Finds the norms of a network, and what is around them, by one forward pass without memory.

The pass runs on meta tensors with hooks on every module. In it the images need a gradient and the
parameters do not, so that a tensor which needs one depends on the images.
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from timm.layers import DropPath
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.overrides import TorchFunctionMode

from benchmark.backbones.base import ImageShape
from benchmark.core.errors import UserError
from benchmark.norms.factory import EPS, Shape

BATCH = 3
"""Images in the pass."""

NORMS = (_BatchNorm, _InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
NORM_MODULES = tuple(
    f"timm.layers.{name}"
    for name in ("norm", "norm_act", "evo_norm", "filter_response_norm", "split_batchnorm")
)
"""The modules of timm whose classes are norms, besides torch's `NORMS`."""

INSEPARABLE = ("timm.layers.evo_norm", "timm.layers.filter_response_norm")
"""The modules of norms that are an activation too."""

GATES = ("squeeze_excite", "eca", "cbam", "gather_excite", "global_context")
"""The modules of `timm.layers` whose classes scale the channels of their input."""

STAYING = {
    "GlobalResponseNorm": "response normalization of an MLP (ConvNeXt V2, 2301.00808)",
    "StdConv2d": "standardized weights",
    "StdConv2dSame": "standardized weights",
    "ScaledStdConv2d": "standardized weights",
    "ScaledStdConv2dSame": "standardized weights",
}
"""Classes that normalize something else than activations by samples, channels or positions."""

NORMALIZING = ("layer_norm", "batch_norm", "group_norm", "instance_norm", "rms_norm")
"""Functions that a network may call instead of a module."""

ADDITIONS = ("add", "add_", "__add__", "__iadd__", "__radd__")
SCALE = re.compile(r"(Layer)?Scale(2d)?")
"""Names of timm's classes that multiply each channel of a branch by a learnable number."""

IN_PLACE = re.compile(r"\w*[^_]_|__i\w+__")
"""Names of functions that change their first argument and return it."""

PASSING = (nn.Identity, nn.Dropout, nn.Dropout2d, DropPath)
"""Modules that return their input, in evaluation mode."""

AnyOutput = TypeVar("AnyOutput")

ATTENTION = re.compile("Attention|Attn")
BRANCH_END = re.compile(r"(ls|drop_path)\d*")
"""Names of the modules at the end of a branch in timm's blocks, which are identities by default."""


@dataclass(frozen=True)
class NormSite:
    """A norm in a network."""

    path: str
    """E.g. `layer1.0.bn1`."""
    kind: str
    """The class of the network's own norm."""
    shape: Shape
    width: int
    """Number of channels."""
    sample: tuple[int, ...]
    """The shape of its input without the first dimension."""
    channels_last: bool
    """Whether the map is (N, H, W, C)."""
    merged: bool
    """Whether its first dimension has more entries than the batch, e.g. one for each window."""
    class_token: bool
    """Whether its input is all tokens of each image, the class token first."""
    eps: float
    momentum: float
    """Of running statistics."""
    affine: bool
    fused: bool
    """Whether the network's own norm contains the activation after it."""
    activation: str | None
    """The path of the activation after it, if that is a module of its own."""
    shared: bool
    """Whether that activation is also used elsewhere."""
    convolution: str | None
    """The path of the convolution whose output it normalizes."""
    biased: bool
    """Whether the layer before it has a bias."""
    parts: tuple[str, ...]
    """Names of its place: `stem`, `stage1` or `block1`, `final`, `downsample`, `branch-end`."""

    @property
    def positions(self) -> int:
        """Of a sample: H·W of a map, all dimensions between batch and channels of tokens."""
        return math.prod(self.sample) // self.width

    @property
    def activated(self) -> bool:
        """Whether an activation follows."""
        return self.fused or self.activation is not None


@dataclass(frozen=True)
class BranchEnd:
    """A place at which a module would scale a residual branch."""

    path: str
    parts: tuple[str, ...]


def matches(place: NormSite | BranchEnd, pattern: str) -> bool:
    """Whether a pattern is a name of the place, or fits its path (as file names: `layer4.*`)."""
    return any(fnmatch.fnmatchcase(name, pattern) for name in (*place.parts, place.path))


@dataclass(frozen=True)
class Sites:
    """The norms of a network and what schemes may change besides."""

    norms: tuple[NormSite, ...]
    """In the order of the forward pass."""
    branch_ends: tuple[BranchEnd, ...]
    """One for each residual branch."""
    unscalable: str | None
    """Why not every branch has such a place."""
    staying: tuple[tuple[str, str], ...]
    """Paths and descriptions of what also normalizes, and stays."""


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a norm of activations that a scheme can replace."""
    return isinstance(module, NORMS) or type(module).__module__ in NORM_MODULES


def find_sites(
    network: nn.Module, run: Callable[[Tensor], AnyOutput], shape: ImageShape
) -> tuple[Sites, AnyOutput]:
    """The norms of a network that is on the meta device, and the output of `run`, its forward pass.

    Raises UserError if one of them cannot be replaced, with the reason.
    """
    for path, module in network.named_modules():
        kind = type(module).__name__
        known = any(is_norm(part) or _stays(part) for part in module.modules())
        own = [*module.parameters(recurse=False)] or not [*module.children()]
        if "norm" in kind.lower() and own and not known:
            raise UserError(f"{path} is a {kind}, which no norm can replace")
    return _Pass(network).sites(run, shape)


def _stays(module: nn.Module) -> bool:
    return type(module).__name__ in STAYING


def _is_activation(module: nn.Module) -> bool:
    place = type(module).__module__
    if place.startswith("timm.layers.activations"):
        return True
    return place == "torch.nn.modules.activation" and not isinstance(
        module, nn.Softmax | nn.MultiheadAttention
    )


def _probability(args: Any, kwargs: Any) -> float:
    """The probability with which a call of dropout leaves values out."""
    given = kwargs or {}
    return float(given.get("p", args[1] if len(args) > 1 else 0.5))


def _dependent(values: Any) -> list[Tensor]:
    """The tensors among the values that depend on the images."""
    return [x for x in values if isinstance(x, Tensor) and x.requires_grad]


@dataclass
class _Addition:
    """A sum of two tensors that depend on the images, in the forward pass of a module."""

    block: nn.Module
    terms: list[_Term]


@dataclass
class _Term:
    source: nn.Module | None
    """The module that computed it."""
    carriers: list[nn.Module]
    """The modules that passed it on."""


class _Pass(TorchFunctionMode):
    """One forward pass: which module computed what, and where additions are."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.path = {module: path for path, module in network.named_modules()}
        self.frames: list[nn.Module] = []
        self.source: dict[int, nn.Module] = {}
        """The module that computed a tensor, by the tensor's id."""
        self.carriers: dict[int, list[nn.Module]] = defaultdict(list)
        """The modules that returned a tensor which they had not computed."""
        self.kept: list[Tensor] = []
        """All outputs, so that each has an id of its own."""
        self.input: dict[nn.Module, list[Tensor]] = defaultdict(list)
        self.activation: dict[nn.Module, nn.Module] = {}
        """The activation after a norm."""
        self.additions: list[_Addition] = []
        self.staying = [
            (path, STAYING[type(module).__name__])
            for module, path in self.path.items()
            if _stays(module)
        ]

    def sites(
        self, run: Callable[[Tensor], AnyOutput], shape: ImageShape
    ) -> tuple[Sites, AnyOutput]:
        """Runs the pass and returns what it found."""
        parameters = [(p, p.requires_grad) for p in self.network.parameters()]
        modes = [(module, module.training) for module in self.network.modules()]
        hooks = [module.register_forward_pre_hook(self._enter) for module in self.path]
        hooks += [module.register_forward_hook(self._leave) for module in self.path]
        images = torch.empty(BATCH, *shape, device="meta", requires_grad=True)
        try:
            self.network.eval().requires_grad_(False)
            with torch.enable_grad(), self:
                output = run(images)
        finally:
            for hook in hooks:
                hook.remove()
            for parameter, wanted in parameters:
                parameter.requires_grad_(wanted)
            for module, mode in modes:
                module.training = mode
        paths, last_norms, unscalable = self._branch_ends()
        place = self._places()
        ends = tuple(BranchEnd(path, place(path)) for path in paths)
        norms = []
        for module in filter(is_norm, self.input):
            last = ("branch-end",) if module in last_norms else ()
            norms.append(self._site(module, place(self.path[module]) + last))
        return Sites(tuple(norms), ends, unscalable, tuple(self.staying)), output

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Sees every function that is called on tensors."""
        name, block = getattr(func, "__name__", ""), self.frames[-1] if self.frames else None
        terms = _dependent(args)
        if block is None or is_norm(block) or not terms:
            return func(*args, **(kwargs or {}))
        if name in ADDITIONS and len(terms) == 2:
            # Before the addition, which may be in place.
            self.additions.append(_Addition(block, [self._term(term) for term in terms]))
        elif name in NORMALIZING:
            raise UserError(
                f"{self.path[block]} ({type(block).__name__}) calls {name} itself, so that no norm can "
                "take its place"
            )
        elif name == "dropout" and not isinstance(block, PASSING) and _probability(args, kwargs):
            raise UserError(
                f"{self.path[block] or 'the network'} ({type(block).__name__}) calls dropout itself"
            )
        elif name == "normalize":
            self.staying.append((self.path[block], "vectors of length 1"))
        output = func(*args, **(kwargs or {}))
        if IN_PLACE.fullmatch(name):
            self.source.pop(id(output), None)
        return output

    def _enter(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.frames.append(module)
        for x in _dependent(inputs[:1]):
            before = self._source(x)
            self.input[module].append(x)
            self.kept.append(x)
            if before is not None and is_norm(before) and _is_activation(module):
                self.activation[before] = module

    def _leave(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self.frames.pop()
        if not isinstance(output, Tensor):
            return
        key, unchanged = id(output), bool(inputs) and output is inputs[0]
        # A module that returns what a module in it computed has computed nothing.
        passed = key in self.source and not is_norm(module)
        if (passed and not (unchanged and _is_activation(module))) or (
            unchanged and isinstance(module, PASSING)
        ):
            self.carriers[key].append(module)
        else:
            self.source[key], self.carriers[key] = module, []
        self.kept.append(output)

    def _term(self, x: Tensor) -> _Term:
        """A term of an addition. A layer that scales it, such as LayerScale, only passes it on."""
        source, carriers = self._source(x), list(self.carriers[id(x)])
        if source is not None and SCALE.fullmatch(type(source).__name__):
            carriers += self.carriers[id(self.input[source][-1])]
        return _Term(source, carriers)

    def _source(self, x: Tensor) -> nn.Module | None:
        """The module that computed a tensor, or the tensor that it is a view of."""
        return self.source.get(id(x)) or self.source.get(id(x._base))

    def _branch_ends(self) -> tuple[list[str], set[nn.Module], str | None]:
        """Places to scale branches, the norms that end branches, and why a branch has no such place."""
        ends: list[str] = []
        last: set[nn.Module] = set()
        unscalable = None
        for block, branch, end in self._branches():
            path = f"{self.path[block]}.{end}".removeprefix(".")
            if branch is None or end is None or path in ends:
                unscalable = (
                    f"{self.path[block]} ({type(block).__name__}) has no place to scale its branch"
                )
                continue
            ends.append(path)
            source = branch.source
            while source is not None and _is_gate(source):
                source = self._source(self.input[source][0])
            if source is not None and is_norm(source):
                last.add(source)
        return ends, last, unscalable

    def _branches(self) -> list[tuple[nn.Module, _Term | None, str | None]]:
        """Of each residual branch its block, its output, and the name of the module at its end."""
        found: list[tuple[nn.Module, _Term | None, str | None]] = []
        for addition in self.additions:
            block = addition.block
            names = {module: name for name, module in block.named_children()}
            branch, end = None, None
            for term in addition.terms:
                for module in term.carriers:
                    name = names.get(module, "")
                    if end is None and BRANCH_END.fullmatch(name) and isinstance(module, PASSING):
                        branch, end = term, name
            if end is None and getattr(block, "drop_path", self) is None:
                # A ResNet's block calls it only if there is one, and adds the shortcut to the branch.
                branch, end = addition.terms[0], "drop_path"
            # Attention has sums of rotary positions, and some layers have a shortcut of their own.
            if end is not None or not (ATTENTION.search(type(block).__name__) or _stays(block)):
                found.append((block, branch, end))
        return found

    def _places(self) -> Callable[[str], tuple[str, ...]]:
        """The function that names the place of a path."""
        blocks = [self.path[block] for block, *_ in self._branches()]
        kinds = {match["kind"] for match in map(_group, blocks) if match}
        groups: dict[str, str] = {}
        for module in self.input:
            match = _group(self.path[module])
            if match and match["kind"] in kinds and match[0] not in groups:
                # A group that is a block itself is one of a ViT.
                word = "block" if match[0] in blocks else "stage"
                groups[match[0]] = f"{word}{len(groups) + 1}"
        order = [self.path[module] for module in self.input]
        inside = [n for n, path in enumerate(order) if (g := _group(path)) and g[0] in groups]

        def names(path: str) -> tuple[str, ...]:
            match = _group(path)
            if match and match[0] in groups:
                found = groups[match[0]]
            else:
                # The end of a branch may have no module yet; its block has one.
                known = path if path in order else path.rpartition(".")[0]
                found = "stem" if inside and order.index(known) < inside[0] else "final"
            shortcut = {"downsample", "shortcut"} & set(path.split("."))
            return (found, "downsample") if shortcut else (found,)

        return names

    def _site(self, norm: nn.Module, parts: tuple[str, ...]) -> NormSite:
        path, kind, x = self.path[norm], type(norm).__name__, self.input[norm][0]
        first = isinstance(norm, _BatchNorm | _InstanceNorm | nn.GroupNorm) or "2d" in kind.lower()
        has_attention = any(ATTENTION.search(type(m).__name__) for m in self.path)
        channels_last = x.ndim == 4 and not first and not has_attention
        shape: Shape = "tokens"
        if channels_last or (first and x.ndim == 4):
            shape = "map"
        elif first and x.ndim == 2:
            shape = "vector"
        elif first:
            raise UserError(f"{path} ({kind}) normalizes a tensor of shape {tuple(x.shape)}")
        if len({tuple(one.shape) for one in self.input[norm]}) > 1:
            raise UserError(f"{path} ({kind}) normalizes tensors of several shapes")
        width = x.shape[1] if first else x.shape[-1]
        if not first and isinstance(norm, nn.LayerNorm) and len(norm.normalized_shape) > 1:
            raise UserError(f"{path} ({kind}) normalizes over several dimensions")
        activation, before = self.activation.get(norm), self._source(x)
        own = getattr(norm, "act", None)
        return NormSite(
            path=path,
            kind=kind,
            shape=shape,
            width=width,
            sample=tuple(x.shape[1:]),
            channels_last=channels_last,
            merged=x.shape[0] != BATCH,
            class_token=self._begins_with_class_token(x),
            eps=float(getattr(norm, "eps", EPS)),
            momentum=float(getattr(norm, "momentum", None) or 0.1),
            affine=getattr(norm, "weight", None) is not None,
            fused=(own is not None and not isinstance(own, nn.Identity))
            or type(norm).__module__ in INSEPARABLE,
            activation=self.path[activation] if activation is not None else None,
            shared=activation is not None and len(self.input[activation]) > 1,
            convolution=self.path[before] if isinstance(before, nn.Conv2d) else None,
            biased=getattr(before, "bias", None) is not None,
            parts=parts,
        )

    def _begins_with_class_token(self, x: Tensor) -> bool:
        """Whether a norm's input is a sequence of all tokens in timm's order, the class token first."""
        if getattr(self.network, "cls_token", None) is None:
            return False
        before = getattr(self.network, "num_prefix_tokens", None)
        patches = getattr(getattr(self.network, "patch_embed", None), "num_patches", None)
        if before is None or patches is None:
            return False
        # Tokens after pooling and a class token alone are shorter, queries and keys have heads.
        return x.ndim == 3 and tuple(x.shape[:2]) == (BATCH, before + patches)


def _group(path: str) -> re.Match[str] | None:
    """The first numbered part of a path, e.g. `layer1`, `stages.0` or `blocks.11`."""
    return re.match(r"(?P<kind>[A-Za-z_]+?)\.?(?P<number>\d+)(?=\.|$)", path)


def _is_gate(module: nn.Module) -> bool:
    return type(module).__module__ in [f"timm.layers.{name}" for name in GATES]
