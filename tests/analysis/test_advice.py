"""The advice says what was planted: who wins, ties, failed, and how far that is from the question."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from benchmark.analysis.advice import advise
from benchmark.cli import parser
from benchmark.core.errors import UserError
from tests.helpers import tiny
from tests.helpers.claimed import Planted, grid, plant, stand, tree, tune

UNTRAINED = {"untrained-resnet-bn": [0.20, 0.21, 0.19], "raw-pixels-pixels-none": [0.15]}
BN, GN, LN = (f"simclr-resnet-{scheme}" for scheme in ("bn", "gn", "ln"))
BEST, LOWER, NEAR = [0.60, 0.62, 0.61], [0.41, 0.40, 0.42], [0.60, 0.61, 0.605]


def asked(
    root: Path, rows: Mapping[str, Sequence[Planted]], *question: Any, **planted: Any
) -> list[str]:
    """The advice on SimCLR where one experiment of three schemes came to these rows."""
    index = stand(root, tree(first=grid("bn", "gn", "ln")))
    plant(index, "first", {**UNTRAINED, **rows}, **planted)
    return advise(index, *(question or ("simclr", "resnet", 32)))


def line(lines: Sequence[str], start: str) -> str:
    """The one sentence that begins so, over its lines."""
    (place,) = (number for number, text in enumerate(lines) if text.startswith(start))
    more = lines[place + 1 :]
    end = next((n for n, text in enumerate(more) if not text.startswith("  ")), len(more))
    return " ".join([lines[place], *(text.strip() for text in more[:end])])


def test_a_winner_and_by_how_much_the_others_are_lower(tmp_path: Path) -> None:
    rows = {BN: BEST, GN: LOWER, LN: [0.30, 0.31, 0.32]}
    said = asked(tmp_path, rows)
    s = math.sqrt(float(np.mean([np.var(values, ddof=1) for values in rows.values()])))
    half = 100 * stats.t.ppf(0.975, 6) * s
    assert line(said, "Best:") == f"Best: bn 61.0 ± {half / 3**0.5:.1f}; no other is tied with it."
    lower = f"± {half * (2 / 3) ** 0.5:.1f} points lower"
    assert line(said, "Avoid:") == f"Avoid: gn (20.0 {lower}), ln (30.0 {lower})."
    evidence = line(said, "Evidence:")
    assert "experiment first, 3 seeds, the recipe's rate for every scheme" in evidence
    assert "unadjusted" in evidence
    assert "nearest" not in line(said, "How far:")
    assert "track mini" in said[0]
    assert len(said) <= 12
    assert max(map(len, said)) <= 100


def test_schemes_within_the_interval_of_the_difference_are_tied(tmp_path: Path) -> None:
    said = asked(tmp_path, {BN: BEST, GN: NEAR, LN: LOWER})
    best = line(said, "Best:")
    assert best.startswith("Best: bn 61.0 ± ")
    assert ", gn 60.5 ± " in best
    assert best.endswith("; tied.")
    assert line(said, "Avoid:").startswith("Avoid: ln (20.0 ± ")


def test_a_tie_is_wider_than_one_interval_and_not_than_that_of_a_difference(tmp_path: Path) -> None:
    """Two rows whose intervals of their own overlap by little, and then not even times √2."""
    one = 100 * stats.t.ppf(0.975, 6) * 0.01 / math.sqrt(3)
    for factor, tied in ((1.2, True), (1.5, False)):
        lower = [0.61 - factor * one / 100 + shift for shift in (-0.01, 0.0, 0.01)]
        said = asked(tmp_path, {BN: [0.60, 0.61, 0.62], GN: lower, LN: LOWER})
        assert line(said, "Best:").endswith("; tied.") == tied, factor


@pytest.mark.parametrize("status", ["diverged", "out-of-memory"])
def test_a_scheme_that_failed_is_not_the_best_however_well_the_rest_did(
    tmp_path: Path, status: str
) -> None:
    said = asked(tmp_path, {BN: [0.9, 0.9, status], GN: BEST, LN: LOWER})
    assert line(said, "Best:").startswith("Best: gn 61.0")
    assert f"bn (failed: 1 {status} of 3)" in line(said, "Avoid:")


def test_a_scheme_that_did_not_learn(tmp_path: Path) -> None:
    said = asked(tmp_path, {BN: BEST, GN: BEST, LN: [0.21, 0.22, 0.215]})
    assert line(said, "Avoid:") == "Avoid: ln (did not learn: 21.5, untrained-resnet-bn 20.0)."


def test_a_scheme_that_is_worse_than_its_input_did_not_learn(tmp_path: Path) -> None:
    pixels = {"raw-pixels-pixels-none": [0.41]}
    said = asked(tmp_path, {BN: BEST, GN: BEST, LN: LOWER, **pixels})
    assert line(said, "Avoid:") == "Avoid: ln (did not learn: 41.0, raw-pixels-pixels-none 41.0)."


def test_where_no_scheme_learnt_none_is_best(tmp_path: Path) -> None:
    flat = [0.21, 0.20, 0.19]
    said = asked(tmp_path, {BN: flat, GN: flat, LN: flat})
    assert line(said, "Best:") == "Best: none of the schemes measured."


def test_a_scheme_that_leaks_is_not_the_best(tmp_path: Path) -> None:
    rows = {BN: [0.70, 0.71, 0.69], GN: BEST, LN: LOWER}
    said = asked(tmp_path, rows, gaps={BN: (0.50, 0.35), GN: (0.02, 0.35), LN: (0.36, 0.36)})
    assert line(said, "Best:").startswith("Best: gn 61.0")
    assert "bn (leaks: training raised its swap gap by 16.0 ± " in line(said, "Avoid:")
    # What depended on the groups before the training is no leak, nor is what is within the spread.
    assert line(said, "Avoid:").count("leaks") == 1


def test_rows_without_all_their_records_do_not_count(tmp_path: Path) -> None:
    said = asked(tmp_path, {BN: [0.9, 0.9], GN: BEST, LN: LOWER})
    assert line(said, "Best:").startswith("Best: gn")
    assert "not yet run: bn" in line(said, "Evidence:")
    assert "bn" not in line(said, "Avoid:")


def test_one_scheme_alone_is_no_comparison(tmp_path: Path) -> None:
    said = asked(tmp_path, {BN: BEST})
    assert "cannot say which scheme is best: only bn 61.0 ± " in line(said, "The records")


def test_one_seed_a_scheme_gives_no_order(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(first=grid("bn", "gn", seeds=[0])))
    plant(index, "first", {BN: [0.6], GN: [0.4]})
    said = advise(index, "simclr", "resnet", 32)
    assert "no interval, so the order is undecided: bn 60.0, gn 40.0." in line(said, "One seed")
    assert not any(text.startswith(("Best", "Avoid")) for text in said)


def test_the_batch_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    small = grid("bn", "gn", methods=["simclr-batch-16"])
    index = stand(tmp_path, tree(large=grid("bn", "gn", "ln"), small=small))
    plant(index, "large", {**UNTRAINED, BN: BEST, GN: LOWER, LN: LOWER})
    of_small = {"simclr-batch-16-resnet-bn": LOWER, "simclr-batch-16-resnet-gn": BEST}
    plant(index, "small", {**UNTRAINED, **of_small})
    said = advise(index, "simclr", "resnet", 16)
    assert line(said, "Best:").startswith("Best: gn")
    assert line(said, "Also") == "Also large (batch 32; rates not tuned): best bn; avoid gn, ln."
    assert "nearest" not in line(said, "How far:")
    said = advise(index, "simclr", "resnet", 256)
    assert line(said, "Best:").startswith("Best: bn")
    assert "The nearest batch is 32, not 256." in line(said, "How far:")
    assert "batch 32" in advise(index, "simclr", "resnet")[0]
    assert "batch 16" in advise(index, "simclr-batch-16", "resnet")[0]


def test_of_two_experiments_the_one_with_more_schemes(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(few=grid("bn", "gn"), many=grid("bn", "gn", "ln")))
    plant(index, "few", {**UNTRAINED, BN: LOWER, GN: BEST})
    plant(index, "many", {**UNTRAINED, BN: BEST, GN: LOWER, LN: LOWER})
    said = advise(index, "simclr", "resnet", 32)
    assert line(said, "Best:").startswith("Best: bn")
    assert line(said, "Also") == "Also few (rates not tuned): best gn; avoid bn."


def test_of_two_batches_the_one_at_which_schemes_were_compared(tmp_path: Path) -> None:
    small = grid("bn", methods=["simclr-batch-16"])
    index = stand(tmp_path, tree(small=small, large=grid("bn", "gn")))
    plant(index, "large", {**UNTRAINED, BN: BEST, GN: LOWER})
    plant(index, "small", {**UNTRAINED, "simclr-batch-16-resnet-bn": LOWER})
    said = advise(index, "simclr", "resnet", 16)
    assert line(said, "Best:").startswith("Best: bn 61.0")
    assert line(said, "Also") == "Also small (rates not tuned): only bn."
    far = line(said, "How far:")
    assert "The nearest batch at which schemes were compared is 32, not 16." in far


def test_of_two_recipes_the_one_that_was_asked_for(tmp_path: Path) -> None:
    cold = grid("bn", "gn", "ln", methods=["simclr-cold"])
    index = stand(tmp_path, tree(cold=cold, plain=grid("bn", "gn")))
    of_cold = {f"simclr-cold-resnet-{s}": values for s, values in (("bn", LOWER), ("gn", BEST))}
    plant(index, "cold", {**UNTRAINED, **of_cold, "simclr-cold-resnet-ln": LOWER})
    plant(index, "plain", {**UNTRAINED, BN: BEST, GN: LOWER})
    said = advise(index, "simclr", "resnet", 32)
    assert line(said, "Best:").startswith("Best: bn")
    note = "temperature 0.05 instead of 0.2; rates not tuned"
    assert line(said, "Also") == f"Also cold ({note}): best gn; avoid bn, ln."


def test_tuned_rates_come_before_one_rate_for_all(tmp_path: Path) -> None:
    tuned = grid("bn", "gn", learning_rates="tuned")
    index = stand(tmp_path, tree(one_rate=grid("bn", "gn", "ln"), tuned=tuned))
    tune(index, "tuned", edge=GN)
    plant(index, "one_rate", {**UNTRAINED, BN: LOWER, GN: BEST, LN: LOWER})
    plant(index, "tuned", {**UNTRAINED, BN: BEST, GN: LOWER})
    said = advise(index, "simclr", "resnet", 32)
    assert line(said, "Best:").startswith("Best: bn")
    assert "experiment tuned, 3 seeds, rates tuned for each scheme" in line(said, "Evidence:")
    assert line(said, "Also") == "Also one_rate (rates not tuned): best gn; avoid bn, ln."
    assert "A better rate may lie beyond those tried for gn." in line(said, "How far:")


def test_a_recipe_that_is_like_the_method_counts_and_is_named(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(cold=grid("bn", "gn", methods=["simclr-cold"])))
    rows = {"simclr-cold-resnet-bn": BEST, "simclr-cold-resnet-gn": LOWER}
    plant(index, "cold", {**UNTRAINED, **rows})
    far = line(advise(index, "simclr", "resnet", 32), "How far:")
    assert "Nearest recipe simclr-cold: temperature 0.05 instead of 0.2." in far
    assert "instead of" not in line(advise(index, "simclr-cold", "resnet", 32), "How far:")


def test_how_a_recipe_trains_otherwise_is_named(tmp_path: Path) -> None:
    params = tree(cold=grid("bn", "gn", methods=["simclr-cold"]))
    params["methods"]["simclr-cold"] |= {"warmup_fraction": 0.25, "schedule": {"end": 0.001}}
    params["methods"]["simclr-cold"]["optimizer"] = {"resnet": "adamw"}
    index = stand(tmp_path, params)
    plant(
        index, "cold", {**UNTRAINED, "simclr-cold-resnet-bn": BEST, "simclr-cold-resnet-gn": LOWER}
    )
    far = line(advise(index, "simclr", "resnet", 32), "How far:")
    for said in (
        "optimizer adamw instead of sgd",
        "warm-up 0.25 instead of 0.1",
        "schedule {'end': 0.001} instead of cosine",
    ):
        assert said in far
    assert "decay on" not in far


def test_without_records_it_says_so(tmp_path: Path) -> None:
    said = asked(tmp_path, {})
    assert "simclr on resnet is in first, without complete records" in line(said, "The records")
    assert line(said, "Nothing near")
    index = stand(tmp_path, tree(tuned=grid("bn", "gn", learning_rates="tuned")))
    assert "is in tuned, without" in line(advise(index, "simclr", "resnet"), "The records")


def test_experiments_without_complete_records_are_skipped_and_named(tmp_path: Path) -> None:
    index = stand(tmp_path, tree(first=grid("bn", "gn"), other=grid("bn", "ln")))
    plant(index, "first", {**UNTRAINED, BN: BEST, GN: LOWER})
    said = advise(index, "simclr", "resnet", 32)
    assert line(said, "Skipped") == "Skipped, without complete records: other."


@pytest.mark.parametrize(
    ("question", "why", "near"),
    [
        (("simclr", "vit"), "no experiment of track mini has simclr on vit", "simclr on resnet"),
        (
            ("barlow", "resnet"),
            "mini has barlow on resnet",
            "simclr on resnet, in experiment first",
        ),
    ],
    ids=str,
)
def test_what_was_not_measured_has_a_nearest_thing(
    tmp_path: Path, question: tuple[str, str], why: str, near: str
) -> None:
    said = asked(tmp_path, {BN: BEST, GN: LOWER, LN: LOWER}, *question)
    assert why in line(said, "The records cannot say")
    assert near in line(said, "The nearest")


def test_a_control_has_nothing_to_advise(tmp_path: Path) -> None:
    assert "not trained" in asked(tmp_path, {BN: BEST}, "untrained", "resnet")[1]


def test_a_record_of_another_configuration_is_refused(tmp_path: Path) -> None:
    found = tree(first=grid("bn", "gn"))
    plant(stand(tmp_path, found), "first", {BN: BEST, GN: LOWER})
    other = tiny.changed(found, "methods/simclr/options/temperature", 0.3)
    with pytest.raises(UserError, match="another configuration"):
        advise(stand(tmp_path, other), "simclr", "resnet")


def test_the_verb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = asked(tmp_path, {BN: BEST, GN: LOWER, LN: LOWER})
    monkeypatch.chdir(tmp_path)
    verb = ["advise", "--method", "simclr", "--backbone", "resnet", "--batch", "32"]
    assert parser.main(verb) == 0
    assert capsys.readouterr().out.splitlines() == expected
    assert parser.main(["advise", "--method", "vicreg", "--backbone", "vit"]) == 0
    assert "cannot say" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--method", "simclrr", "--backbone", "resnet"], "'simclrr'; did you mean 'simclr'?"),
        (["--method", "simclr", "--backbone", "resnett"], "'resnett'; did you mean 'resnet'?"),
        (["--method", "simclr", "--backbone", "pixels"], "unknown backbone 'pixels'"),
        (["--method", "simclr", "--backbone", "resnet", "--batch", "1"], "--batch is 1"),
        (["--method", "simclr", "--backbone", "resnet", "--track", "minni"], "did you mean 'mini'"),
    ],
    ids=str,
)
def test_names_that_do_not_exist_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    stand(tmp_path, tree(first=grid("bn")))
    monkeypatch.chdir(tmp_path)
    assert said in tiny.refusal(capsys, "advise", *arguments)
