"""The leakage measures against networks whose answers are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.diagnostics.diagnose import BATCHES, REDRAWS
from benchmark.diagnostics.held_out import batches, by_image
from benchmark.diagnostics.leakage import (
    REGROUPINGS,
    batch_dependence,
    jacobian_ratios,
    pretext_accuracies,
    relative_change,
    same_group,
)
from benchmark.methods.base import MaskedMethod, QueryAndTarget
from tests.helpers.diagnosed import diagnosed
from tests.helpers.small import BACKBONES, batch, build, images, stir

BATCH, GROUPS = 32, 8
GROUP = torch.arange(BATCH) * GROUPS // BATCH


class Mixed(nn.Module):
    """zᵢ = xᵢ + a · the mean of the batch, or of each of its groups, plus a constant."""

    def __init__(self, a: float, groups: int = 1, constant: float = 0.0) -> None:
        super().__init__()
        self.a, self.groups, self.constant = a, groups, constant

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        means = [part.mean(0, keepdim=True).expand_as(part) for part in x.chunk(self.groups)]
        return x + self.a * torch.cat(means) + self.constant


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def dealt_embeddings(network: nn.Module, x: Tensor, size: int = BATCH) -> Tensor:
    dealt = batches(REDRAWS, len(x) // size, size, 0)
    return by_image(lambda index: {"z": network(x[index])}, dealt)["z"]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("a", [0.0, 0.5, 3.0])
def test_batch_dependence_of_a_mixture(a: float, groups: int) -> None:
    n, size = BATCHES * BATCH, BATCH // groups
    # Far from the origin angles are proportional to distances.
    x = noise(n, 200).double()
    z = dealt_embeddings(Mixed(a, groups, 1000.0), x)
    # a/B · the sum of B − 1 mates of variance 1 that are drawn from n − 1 without replacement.
    between_redraws = (a / size) ** 2 * (size - 1) * (1 - (size - 1) / (n - 1))
    between_images = 1 + 2 * a / size + a**2 / size
    found = batch_dependence(z)
    assert found == pytest.approx(between_redraws / between_images, rel=0.05, abs=1e-12)


def test_batch_dependence_is_the_published_ratio_of_cosines() -> None:
    z = noise(3, 6, 4)
    unit = z / z.norm(dim=2, keepdim=True)
    above = [
        1 - float(unit[m, i] @ unit[n, i]) for i in range(6) for m in range(3) for n in range(m)
    ]
    below = [
        1 - float(unit[m, i] @ unit[m, j]) for m in range(3) for i in range(6) for j in range(i)
    ]
    expected = (sum(above) / len(above)) / (sum(below) / len(below))
    assert batch_dependence(z) == pytest.approx(expected, rel=1e-5)


def test_batch_dependence_under_collapse_and_without_numbers() -> None:
    constant = noise(1, 1, 8).expand(3, 10, 8)
    assert batch_dependence(constant * (1 + 0.5 * noise(3, 10, 1).abs())) is None
    assert batch_dependence(torch.zeros(3, 10, 8)) is None
    assert batch_dependence(torch.full((3, 10, 8), torch.nan)) is None
    # Images that cannot be told apart while batches can: the batch is all there is.
    assert (batch_dependence(noise(3, 1, 8).expand(3, 10, 8) + 1e-3 * noise(3, 10, 8)) or 0) > 100


@pytest.mark.parametrize("a", [0.0, 0.7, -0.7, 5.0])
def test_jacobian_ratio_of_a_mixture(a: float) -> None:
    found = jacobian_ratios({"z": Mixed(a)}, noise(BATCH, 3, 4, 4).double(), 0)
    # ∂zᵢ/∂xⱼ = a/B and ∂zᵢ/∂xᵢ = 1 + a/B times the identity.
    assert found["z"] == pytest.approx(abs(a / BATCH) / abs(1 + a / BATCH), rel=1e-6)


def test_jacobian_ratio_averages_over_all_others() -> None:
    a, size = 2.0, BATCH // GROUPS
    found = jacobian_ratios({"z": Mixed(a, GROUPS)}, noise(BATCH, 6).double(), 0)
    mates = (a / size) / (1 + a / size)
    assert found["z"] == pytest.approx(mates * (size - 1) / (BATCH - 1), rel=1e-6)


def test_jacobian_ratio_of_frobenius_norms() -> None:
    """Against the whole Jacobian of a network with BN, to the estimate's own accuracy."""
    network = build("simclr", "vit", "bn").double().train()
    stir(network)
    projector = network.embedding_networks()["projector"]
    x = images(8).double()
    whole = torch.autograd.functional.jacobian(projector, x).flatten(3)  # (B, D, B, pixels)
    norms = whole.transpose(1, 2).flatten(2).norm(dim=2)
    own = norms.diagonal()
    exact = (((norms.sum(1) - own) / 7) / own).mean()
    found = [jacobian_ratios({"z": projector}, x, seed)["z"] or 0 for seed in range(8)]
    assert sum(found) / len(found) == pytest.approx(float(exact), rel=0.1)


def test_jacobian_ratio_where_nothing_passes() -> None:
    x = noise(BATCH, 6)
    assert jacobian_ratios({"z": nn.Sequential(nn.Flatten(), Detached())}, x, 0) == {"z": None}
    constant = nn.Linear(6, 3)
    nn.init.zeros_(constant.weight)
    assert jacobian_ratios({"z": constant}, x, 0) == {"z": None}


class Detached(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.detach()


def test_same_group_retrieval() -> None:
    size = BATCH // GROUPS
    chance = (size - 1) / (BATCH - 1)
    free, by_chance = same_group(noise(400, BATCH, 16), GROUP)
    assert by_chance == pytest.approx(chance)
    assert free == pytest.approx(chance, abs=0.005)  # 38400 neighbours
    signature = noise(400, GROUPS, 16, seed=1).repeat_interleave(size, 1)
    marked, _ = same_group(noise(400, BATCH, 16) + 10 * signature, GROUP)
    assert marked is not None
    assert marked > 0.95
    strided = torch.arange(BATCH) % GROUPS
    across, _ = same_group(noise(400, BATCH, 16) + 10 * signature, strided)
    assert across is not None
    assert across < 0.05
    # What a norm takes out of a group is missing in all of its members alike: they stand apart.
    centred = noise(400, GROUPS, size, 16)
    centred = (centred - centred.mean(2, keepdim=True)).flatten(1, 2)
    apart, _ = same_group(centred, GROUP)
    assert apart is not None
    assert apart < chance / 2


def test_same_group_retrieval_needs_neighbours() -> None:
    assert same_group(noise(2, BATCH, 4), torch.arange(BATCH)) == (None, None)
    assert same_group(noise(2, BATCH, 4) * torch.nan, GROUP) == (None, None)


class Marked(nn.Module):
    """Embeds all but the first channel, and of that one only what its BN group has in common."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.groups, self.strength = GROUPS, strength
        self.running_mean: Tensor
        self.register_buffer("running_mean", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.running_mean += 1
        parts = x[:, 0].flatten(1).chunk(GROUPS)
        means = torch.cat([part.mean(0, keepdim=True).expand_as(part) for part in parts])
        return torch.cat((x[:, 1:].flatten(1), self.strength * means), 1)


def two_views(batches: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two views of the same images; the first channel alone is the same in both."""
    plain = noise(batches, BATCH, 3, 4, 4, seed=seed)
    views = [plain + 2 * noise(*plain.shape, seed=seed + 1 + v) for v in range(2)]
    for view in views:
        view[:, :, 0] = plain[:, :, 0]
    return views[0], views[1]


@pytest.mark.parametrize("queue", [0, 3 * BATCH])
def test_a_planted_signature_is_found(queue: int) -> None:
    first, second = two_views(5)
    earlier, _ = two_views(3, seed=10)

    def gap(strength: float) -> float:
        network = Marked(strength)
        found = pretext_accuracies(
            QueryAndTarget(network, network, queue), first, second, earlier, 0
        )
        assert found is not None
        assert int(network.running_mean.sum()) == 0  # nothing is left of it
        return found[0] - found[1]

    assert gap(0.0) == 0  # groups without a signature
    assert gap(30.0) > 0.25
    z = torch.stack([Marked(30.0)(view) for view in first])
    found, chance = same_group(z, GROUP)
    assert found is not None
    assert chance is not None
    assert found > 3 * chance


def test_pretext_accuracies_count_the_images_that_are_found() -> None:
    """Half of the targets are right only where the batch is in its own order."""

    class Ordered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            code = x.flatten(1)[:, 0].round().long()
            # The first half of the images is found anywhere, the second in its own place alone.
            known = (code < BATCH // 2) | (code == torch.arange(len(x)))
            return torch.eye(BATCH + 1)[torch.where(known, code, BATCH)]

    numbered = torch.arange(BATCH).float().view(1, BATCH, 1, 1, 1).repeat(5, 1, 3, 4, 4)
    exact = nn.Sequential(nn.Flatten(), Numbers())
    found = pretext_accuracies(
        QueryAndTarget(exact, Ordered()), numbered, numbered, numbered[:0], 0
    )
    # In order all are found, and a redraw leaves one of 32 in its place.
    assert found is not None
    assert found[0] == 1
    assert found[1] == pytest.approx(1 / 2 + 1 / BATCH / 2, abs=0.02)


def test_pretext_accuracies_without_numbers() -> None:
    first, second = two_views(2)
    broken = QueryAndTarget(Marked(math.nan), Marked(1.0))
    assert pretext_accuracies(broken, first, second, first[:0], 0) is None


class Passes(Marked):
    """Remembers the sizes of its forward passes."""

    def __init__(self) -> None:
        super().__init__(30.0)
        self.sizes: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.sizes.append(len(x))
        return super().forward(x)


def test_views_of_one_pass_share_their_groups_where_that_is_how_they_were_trained() -> None:
    """Contiguous groups of a joint pass are of one view alone: they cannot give a positive away."""
    first, second = two_views(5)
    network = Passes()
    found = {}
    for joint in (False, True):
        network.sizes.clear()
        accuracies = pretext_accuracies(
            QueryAndTarget(network, network), first, second, first[:0], 0, joint=joint
        )
        assert set(network.sizes) == {2 * BATCH if joint else BATCH}
        assert accuracies is not None
        found[joint] = accuracies
    # As what the two halves of one pass give by hand, in order.
    shares = []
    for one, other in zip(first, second, strict=True):
        z = torch.nn.functional.normalize(Marked(30.0)(torch.cat((one, other))).double(), dim=1)
        nearest = (z[:BATCH] @ z[BATCH:].T).argmax(1)
        shares.append(float((nearest == torch.arange(BATCH)).double().mean()))
    assert found[True][0] == pytest.approx(sum(shares) / 5)
    assert found[True] != found[False]
    # A teacher's views pass through another network, so there is no pass to share.
    other = Passes()
    network.sizes.clear()
    apart = pretext_accuracies(
        QueryAndTarget(network, other), first, second, first[:0], 0, joint=True
    )
    assert set(network.sizes + other.sizes) == {BATCH}
    assert apart == found[False]


class Numbers(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.eye(BATCH + 1)[x[:, 0].round().long()]


def test_pretext_accuracies_draw_enough_groups() -> None:
    calls = []

    class Counted(Marked):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(x)
            return super().forward(x)

    for count in (1, 3, 5):
        calls.clear()
        first, second = two_views(count)
        pretext_accuracies(QueryAndTarget(Marked(1.0), Counted(1.0)), first, second, first[:0], 0)
        redrawn = [x for x in calls if not any(torch.equal(x, own) for own in second)]
        assert len(redrawn) >= REGROUPINGS
        assert len(calls) == len(redrawn) + count


def test_relative_change() -> None:
    losses = torch.tensor([[1.0, 2.0], [3.0, 2.0], [2.0, 2.0]])
    # |1−3|, |1−2|, |3−2| over 2; and none.
    assert relative_change(losses) == pytest.approx((4 / 3 / 2 + 0) / 2)
    assert relative_change(losses * torch.nan) is None


@pytest.mark.parametrize("backbone", BACKBONES)
def test_masked_patches_tell_of_batch_mates_under_bn_alone(backbone: str) -> None:
    def change(norm: str) -> Any:
        network = build("mae", backbone, norm)
        stir(network)
        return diagnosed(network, "mae")["leakage"]["masked_patch_change"]

    assert change("ln") < 1e-5
    assert change("bn") > 1e-3


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_errors_of_images_average_to_the_loss(backbone: str, normalize: bool) -> None:
    network = build("mae", backbone, "bn", normalize_target=normalize).train()
    assert isinstance(network, MaskedMethod)
    stir(network)
    given = batch("mae")
    mask = network.mask(len(given.labels), given.draw.generator("mask"))
    errors = network.errors(given.views[0], mask)
    assert errors.shape == given.labels.shape
    torch.testing.assert_close(errors.mean(), network(given).loss)
