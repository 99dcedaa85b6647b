"""Puts the norms of a scheme into a network, and what they ask for around them."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from benchmark.backbones.sites import INSEPARABLE, NormSite, Sites, matches
from benchmark.core.errors import UserError
from benchmark.norms.factory import ChannelsLast, OverTokens, SectionNorms, Site


class NormAct(nn.Module):
    """A norm and the activation after it, in the place of a module that was both."""

    def __init__(self, norm: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.norm, self.act = norm, act

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, …) → (N, C, …)."""
        return self.act(self.norm(x))


class MapLast(nn.Module):
    """Applies a layer for maps (N, C, H, W) to maps (N, H, W, C)."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: Tensor) -> Tensor:
        """(N, H, W, C) → (N, H, W, C)."""
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def tensors(network: nn.Module, sites: Sites) -> dict[str, Tensor]:
    """The parameters and buffers of a network with replaced norms, by the names that they have in timm.

    A tensor of a norm is named as if the norm were in the place itself: `bn1.weight` also if a module
    around it makes this `bn1.norm.weight` here.
    """
    renamed = {}
    for found in sites.norms:
        layer, inside = network.get_submodule(found.path), ""
        while isinstance(layer, NormAct | MapLast | OverTokens | ChannelsLast):
            child = "norm" if isinstance(layer, NormAct | MapLast) else "layer"
            layer, inside = layer.get_submodule(child), f"{inside}{child}."
        if inside:
            renamed[f"{found.path}.{inside}"] = f"{found.path}."
    state = {}
    for name, tensor in network.state_dict().items():
        around = next((prefix for prefix in renamed if name.startswith(prefix)), "")
        state[renamed.get(around, "") + name.removeprefix(around)] = tensor
    return state


def place(network: nn.Module, sites: Sites, norms: SectionNorms, branch_gain: int = 1) -> None:
    """Replaces every norm of `network` by the layer of the section's norm at its site.

    `branch_gain` 0 starts the scale of the last norm of each residual branch at zero (Goyal et al. 2017,
    1706.02677, §5.1); norms without a scale ignore it. Raises UserError if a norm is not defined at a
    site, a pattern of the scheme has no site, or the network lacks what a norm asks for.
    """
    if not sites.norms:
        raise UserError("the network has no norms, so that a scheme would change nothing")
    _check_patterns(sites, norms)
    ends = 0
    active: dict[SectionNorms, bool] = {}
    for found in sites.norms:
        chosen = norms.at(partial(matches, found))
        layer = _replace(network, found, chosen)
        active[chosen] = active.get(chosen, False) or found.activated
        if "branch-end" in found.parts and branch_gain == 0:
            ends += 1
            _start_at_zero(layer)
    for chosen, activated in active.items():
        if chosen.facts.get("activates") and not activated:
            raise UserError(
                f"norm {chosen.name!r} contains an activation, and none follows any of its sites in the "
                f"{norms.section}"
            )
    if branch_gain == 0 and not ends:
        raise UserError("branch_gain is 0, and no norm of the network ends a residual branch")
    for scaling in (norms, *(part for _, part in norms.parts)):
        if scaling.branch() and (sites.unscalable or not sites.branch_ends):
            reason = sites.unscalable or "the network has no residual branch"
            raise UserError(f"norm {scaling.name!r} scales residual branches: {reason}")
    for end in sites.branch_ends:
        if scale := norms.at(partial(matches, end)).branch():
            parent, _, name = end.path.rpartition(".")
            setattr(network.get_submodule(parent), name, scale)


def _start_at_zero(norm: nn.Module) -> None:
    """Sets a norm's scales to zero; a norm for tokens may hold the one with the scales."""
    for layer in norm.modules():
        if isinstance(weight := getattr(layer, "weight", None), nn.Parameter):
            nn.init.zeros_(weight)


def _check_patterns(sites: Sites, norms: SectionNorms) -> None:
    """Raises UserError for a pattern of the scheme without a site."""
    chosen = [norms.at(partial(matches, found)) for found in sites.norms]
    for pattern, part in norms.parts:
        if part not in chosen:
            places = dict.fromkeys(name for found in sites.norms for name in found.parts)
            raise UserError(
                f"sites {pattern!r} of the {norms.section} fits no norm that an earlier pattern left "
                f"(places: {', '.join(places)}; or a pattern of the paths that `benchmark sites` prints)"
            )


def _replace(network: nn.Module, found: NormSite, norms: SectionNorms) -> nn.Module:
    """Puts a new layer in the place of one norm and returns it."""
    own = network.get_submodule(found.path)
    activates = bool(norms.facts.get("activates"))
    separable = type(own).__module__ not in INSEPARABLE
    act: nn.Module = nn.Identity()
    if found.fused and separable:
        act = own.get_submodule("act")
        own.act = nn.Identity()
    site = Site(
        found.shape, found.width, norms.section, found.positions, found.affine, found.activated,
        found.eps, found.momentum, found.biased, found.merged, found.class_token, found.path, own,
    )  # fmt: skip
    layer = norms.build(site)
    placed = layer
    if layer is not own and not separable:
        raise UserError(
            f"norm {norms.name!r} is not defined {site}: the {found.kind} there contains an activation"
        )
    if found.channels_last and layer is not own:
        placed = MapLast(layer)
    if activates and found.activation is not None:
        if found.shared:
            raise UserError(
                f"norm {norms.name!r} is not defined {site}: it would replace {found.activation}, which "
                "is used after other layers too"
            )
        network.set_submodule(found.activation, nn.Identity())
    elif not activates and not isinstance(act, nn.Identity):
        placed = NormAct(placed, act)
    network.set_submodule(found.path, placed)
    if found.convolution is not None:
        convolution = network.get_submodule(found.convolution)
        assert isinstance(convolution, nn.Conv2d)
        network.set_submodule(found.convolution, norms.convolution(convolution))
    return layer
