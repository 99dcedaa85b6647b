"""The contestants differ in their pipelines and in nothing else."""

from __future__ import annotations

import pytest
import torch

from tests.helpers.tiny import PROJECT
from tools.speed import cases
from tools.speed.pipelines import CONTESTANTS, Contestant, Loop

CPU = torch.device("cpu")
PIPELINES = ["lightly", "kornia", "bare"]


class Enough(Exception):
    pass


@pytest.fixture(params=[cases.MINI_RESNET, cases.COLOUR_VIT], ids=lambda case: case.name)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> cases.Case:
    monkeypatch.setattr(cases, "IMAGES", 600)
    found: cases.Case = request.param
    return found


def take_steps(contestant: Contestant, count: int) -> None:
    left = count

    def tick() -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Enough

    with pytest.raises(Enough):
        contestant.run(tick)


def test_all_train_the_same_network_for_as_long_as_they_are_asked(case: cases.Case) -> None:
    states = []
    for name in ("ours", *PIPELINES):
        contestant = CONTESTANTS[name](case, PROJECT, CPU, 0)
        states.append({k: v.clone() for k, v in contestant.method.state_dict().items()})
        take_steps(contestant, 3)
        after = contestant.method.state_dict()
        assert all(value.isfinite().all() for value in after.values())
        moved = [key for key, value in after.items() if not value.equal(states[-1][key])]
        assert "backbone.net.conv1.weight" in moved or any("attn" in key for key in moved)
    for state in states[1:]:
        assert state.keys() == states[0].keys()
        assert all(state[key].equal(states[0][key]) for key in state)


@pytest.mark.parametrize("name", PIPELINES)
def test_every_pipeline_gives_two_standardised_views_of_a_batch(
    name: str, case: cases.Case
) -> None:
    contestant = CONTESTANTS[name](case, PROJECT, CPU, 0)
    assert isinstance(contestant, Loop)
    first, second = next(contestant.views())
    assert first.shape == second.shape == (case.batch, case.channels, case.side, case.side)
    for view in (first, second):
        # Made-up pixels are spread evenly over 0..1, and standardised with .5 and .25.
        assert view.dtype == torch.float32
        assert view.is_contiguous(memory_format=torch.channels_last)
        assert -2 <= float(view.min()) < -1
        assert 1 < float(view.max()) <= 2
    assert not first.equal(second)


def test_the_losses_of_peers_are_this_projects(case: cases.Case) -> None:
    losses = []
    for name in PIPELINES:
        contestant = CONTESTANTS[name](case, PROJECT, CPU, 0)
        assert isinstance(contestant, Loop)
        pixels = case.images()[: case.batch].float() / 255
        views = [contestant.standardise(pixels), contestant.standardise(pixels.flip(3))]
        losses.append(float(contestant.loss(views).detach()))
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)
