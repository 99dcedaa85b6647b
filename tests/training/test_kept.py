"""The state at the end of a training is kept, and measured again without training."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmark.core import canonical_json, determinism
from benchmark.data.load import load
from benchmark.evaluation.features import embed, reestimate
from benchmark.evaluation.knn import knn_accuracy
from benchmark.evaluation.online_knn import make_online_knn
from benchmark.execution.cell import run
from benchmark.planning.cell import Task
from benchmark.planning.configuration import Configuration
from benchmark.results.records import Record, Store
from benchmark.training import network
from benchmark.training.loop import MARKS, train
from tests.helpers import tiny


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.project(tmp_path_factory.mktemp("project"))


def planned(root: Path, method: str = "simclr", scheme: str = "bn", judge: str = "test") -> Task:
    tree = tiny.raw()
    tree["experiments"]["leaderboard"] |= {"methods": [method], "schemes": [scheme]}
    found = tiny.cell(f"{method}-resnet-{scheme}-s0", tree=tree)
    config = tiny.changed(found.config.as_json(), "evaluation/judge", judge)
    return replace(found, config=Configuration.model_validate(config)).on(tiny.dataset(root))


def go(task: Task, root: Path, store: Store) -> tuple[Record, int]:
    """The record, and how many times the training said that it goes on."""
    steps = 0

    def progress(step: int, total: int, loss: torch.Tensor) -> bool:
        nonlocal steps
        steps += 1
        return True

    return run(task, root / "data" / "mini", store, determinism.start("cpu"), progress), steps


@pytest.mark.parametrize(("method", "scheme"), [("simclr", "bn"), ("moco", "bn-eman")])
def test_what_is_kept_gives_the_same_record_without_training(
    root: Path, tmp_path: Path, method: str, scheme: str
) -> None:
    store, wanted = Store(tmp_path), planned(root, method, scheme)
    first, steps = go(wanted, root, store)
    assert steps > 0
    kept = store.trained(wanted.training_key)
    assert kept.is_file()
    again, steps = go(wanted, root, store)
    assert steps == 0
    assert canonical_json.pretty(again.as_json()) == canonical_json.pretty(first.as_json())


def test_a_damaged_or_foreign_state_is_not_taken(root: Path, tmp_path: Path) -> None:
    store, wanted = Store(tmp_path), planned(root)
    first, _ = go(wanted, root, store)
    kept = store.trained(wanted.training_key)
    whole = kept.read_bytes()
    kept.write_bytes(whole[: len(whole) // 2])
    again, steps = go(wanted, root, store)
    assert steps > 0
    assert again == first
    assert kept.read_bytes() == whole
    # A state under another training's name.
    kept.write_bytes(whole.replace(wanted.training_key.encode(), b"0" * 64))
    again, steps = go(wanted, root, store)
    assert steps > 0
    assert again == first


def test_a_trial_of_a_sweep_is_neither_watched_nor_kept(root: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    entry, _ = go(planned(root, judge="validation"), root, store)
    assert entry.result.watched is None
    assert not store.trained("any").parent.exists()


def test_watching_changes_nothing_and_ends_with_the_final_accuracy(root: Path) -> None:
    wanted = planned(root).cell
    splits = load(root / "data" / "mini", ("train", "validation"))
    images, labels = splits.images, splits.labels

    def standardise(x: torch.Tensor) -> torch.Tensor:
        return (x - 0.5) / 0.3

    states, scores = [], []
    for look in (False, True):
        method = network.build(wanted, splits.manifest)
        online_knn = make_online_knn(
            method.eval_backbone, (images["train"], labels["train"]),
            (images["validation"], labels["validation"]), 5, 0.1, tiny.BATCH, standardise,
        )  # fmt: skip
        trained = train(
            method, wanted.config.recipe, 0, images["train"], labels["train"], standardise,
            determinism.start("cpu"), root / "none.safetensors", "key", lambda *_: True,
            online_knn=online_knn if look else None,
        )  # fmt: skip
        states.append(method.state_dict())
        scores.append(trained.online_knn)
    for name, value in states[0].items():
        assert torch.equal(value, states[1][name]), name
    assert torch.isnan(scores[0]).all()
    assert len(scores[1]) == len(MARKS)
    # What a look sees is the network with its statistics re-estimated, which it puts back.
    assert reestimate(method.eval_backbone, images["train"], tiny.BATCH, standardise)
    bank, queries = (
        embed(method.eval_backbone, images[name], standardise)["pooled"] for name in images
    )
    splits_of = (bank, labels["train"]), (queries, labels["validation"])
    (score,) = knn_accuracy(*splits_of, [5], 0.1)
    # Both splits are smaller than the online kNN asks for, so its last score is the whole judgement.
    assert float(scores[1][-1]) == pytest.approx(score)
    assert len(set(scores[1].tolist())) > 1


def test_a_network_that_is_not_finite_has_no_accuracy(root: Path) -> None:
    wanted = planned(root).cell
    splits = load(root / "data" / "mini", ("train", "validation"))
    method = network.build(wanted, splits.manifest)
    with torch.no_grad():
        next(method.backbone.parameters()).fill_(torch.nan)
    splits_of = {name: (splits.images[name], splits.labels[name]) for name in splits.images}
    online_knn = make_online_knn(
        method.eval_backbone,
        splits_of["train"],
        splits_of["validation"],
        5,
        0.1,
        tiny.BATCH,
        lambda x: x,
    )
    score = online_knn(lambda: True)
    assert score is not None
    assert math.isnan(score)
