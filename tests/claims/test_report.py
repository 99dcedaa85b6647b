"""The page, its JSON and its figures say what was judged, and come out the same each time."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import pytest

from benchmark.analysis import evidence, power
from benchmark.analysis.claims import diagnostics, judge, load
from benchmark.analysis.claims.judge import Judged
from benchmark.config import params
from benchmark.report.claims import write
from benchmark.results.rows import RecordIndex
from tests.helpers import planted, tiny
from tests.helpers.claimed import yaml
from tests.helpers.planted import APART, MINUS, PLUS, SHUFFLED, effect, ladder, record_of, stand

ALL = {
    "study": effect(0.05),
    "speed": ladder({"bn": 1.0, "none-plain": 0.1, "ln": 0.1}),
    "leakage": effect(0.0),
}
NAMES = ["C1", "C2", "C3a", "C3b", "C4", "C5"]
FIGURES = [f"results/mini/figures/claims/{name}.svg" for name in NAMES]
FILES = ["results/mini/claims.md", "results/mini/claims.json", "results/literature.md", *FIGURES]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with all of its records, reported."""
    root = tmp_path_factory.mktemp("made")
    stand(root, ALL)
    assert [path.relative_to(root).as_posix() for path in write.write(root, "mini")] == [
        FILES[0], FILES[1], *FIGURES, FILES[2],
    ]  # fmt: skip
    return root


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without any record, reported."""
    root = tmp_path_factory.mktemp("bare")
    stand(root)
    write.write(root, "mini")
    return root


def judgements(root: Path) -> dict[str, Judged]:
    written = load.read(root)
    index = RecordIndex(root, params.read(root / "params.yaml"))
    return {entry.name: entry for entry in judge.judge(written, index)}


def drawn(root: Path, name: str) -> str:
    """The texts of a figure, which stand in it as comments beside their outlines."""
    return (root / f"results/mini/figures/claims/{name}.svg").read_text(encoding="utf-8")


def section(root: Path, name: str) -> str:
    text = (root / FILES[0]).read_text(encoding="utf-8")
    return text.split(f"## {name}: ", 1)[1].split("\n## ", 1)[0]


def keys(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from keys(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from keys(inner)


def test_every_key_of_the_json_is_documented(made: Path) -> None:
    document = json.loads((made / FILES[1]).read_text(encoding="utf-8"))
    text = (tiny.PROJECT / "docs/claims.md").read_text(encoding="utf-8")
    names = {"moco", *document["margins"]}
    assert set(keys(document)) - names
    for key in set(keys(document)) - names:
        assert f"`{key}`" in text, key
    assert document["schema"] == 3
    assert document["scale"] == "short trainings of small networks"
    assert document["comparisons"] == 6


def test_the_page_sums_up_and_says_where_a_verdict_holds(made: Path) -> None:
    text = (made / FILES[0]).read_text(encoding="utf-8")
    document = json.loads((made / FILES[1]).read_text(encoding="utf-8"))
    summary = [line for line in text.splitlines() if line.startswith("| [C")]
    assert len(summary) == 6
    for line, claim in zip(summary, document["claims"], strict=True):
        verdict = claim["advice"]["verdict"]
        assert f"| **{verdict}** |" in line
        said = section(made, claim["id"])
        assert f"**Verdict: {verdict}** on the track `mini` (short trainings of small" in said
        mean = claim["advice"]["estimate"]["mean"]
        shown = f"{mean:+.2f}" if claim["id"] == "C1" else f"{100 * mean:+.2f}"
        assert f"**{shown} (" in said
        assert f"| {shown} (" in line
        for cell in claim["advice"]["cells"]:
            assert cell["sha256"][:12] in said
            assert cell["marks"] == ["unrecorded"]
        behind = len(claim["advice"]["cells"])
        assert f"Provenance of the {behind} records: {behind} **unrecorded** (" in said
        for seed in claim["advice"]["seeds"]:
            assert f" {100 * seed['difference']:+.2f} |" in said or claim["id"] == "C1"
    assert [claim["advice"]["verdict"] for claim in document["claims"]] == [
        "supported", "supported", "supported", "supported", "supported", "supported",
    ]  # fmt: skip
    assert "They &lt;say&gt; so." in section(made, "C2")
    assert "He et al., MoCo" in section(made, "C2")
    assert "not comparable" in section(made, "C2")
    assert "The difference that must have the same sign" in section(made, "C5")


def test_without_records_everything_is_undetermined_and_written(bare: Path) -> None:
    document = json.loads((bare / FILES[1]).read_text(encoding="utf-8"))
    for claim in document["claims"]:
        assert claim["advice"]["verdict"] == "undetermined"
        assert claim["advice"]["estimate"] is None
        assert "no record of" in section(bare, claim["id"])
    for name in NAMES:
        assert "no records" in drawn(bare, name)


@pytest.mark.parametrize("root", ["made", "bare"])
@pytest.mark.parametrize("name", FIGURES)
def test_figures_are_xml_without_a_date(
    request: pytest.FixtureRequest, root: str, name: str
) -> None:
    content = (request.getfixturevalue(root) / name).read_bytes()
    tags = {element.tag.rsplit("}", 1)[-1] for element in ElementTree.fromstring(content).iter()}
    assert "path" in tags
    assert "date" not in tags
    assert str(Path.home()).encode() not in content


def test_figures_show_what_there_is_and_name_what_is_lacking(made: Path, tmp_path: Path) -> None:
    assert all("no records" not in drawn(made, name) for name in NAMES)
    for name in ("bn", "none-plain", "a seed failed", "untrained", "raw pixels"):
        assert f"<!-- {name} -->" in drawn(made, "C1")
    assert "<!-- groups redrawn -->" in drawn(made, "C3b")
    mean = 100 * fmean(judgements(made)["C5"].difference.plus.values.values())  # type: ignore[union-attr]  # it is there
    assert f"<!-- {mean:.1f} % -->" in drawn(made, "C5")
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    record_of(tmp_path, f"{PLUS}-s1").unlink()
    record_of(tmp_path, f"{APART}-s1", "leakage").unlink()
    record_of(tmp_path, "simclr-lr-1-resnet-bn-s1", "speed").unlink()
    write.write(tmp_path, "mini")
    assert "<!-- bn -->" in drawn(tmp_path, "C1").split("no records yet")[1]
    assert f"<!-- {mean:.1f} % -->" not in drawn(tmp_path, "C5")
    for name in NAMES:
        assert ("no records" in drawn(tmp_path, name)) == (name != "C3a")


def test_the_pages_say_what_the_command_line_set(made: Path, tmp_path: Path) -> None:
    for path in (made / name for name in FILES[:3]):
        assert b"--set" not in path.read_bytes()
        assert b"overrides" not in path.read_bytes()
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    write.write(tmp_path, "mini", params.read(tmp_path / "params.yaml", ["title=another"]))
    page, document, literature = ((tmp_path / name).read_text("utf-8") for name in FILES[:3])
    assert "\n**Judged with `--set 'title=\"another\"'`**, which `params.yaml` does not" in page
    assert json.loads(document)["overrides"] == {"title": "another"}
    assert json.loads(document)["title"] == "another"
    assert "\nThe rows of `mini` are those of its params with `--set 'title=" in literature


def test_leakage_is_held_against_the_same_network_before_its_training(made: Path) -> None:
    apart, shuffled = judgements(made)["C3b"].leaks
    assert (apart.row, shuffled.row) == (APART, SHUFFLED)
    assert apart.excess == pytest.approx(0.3 - 0.02, abs=0.01)
    assert shuffled.excess == pytest.approx(0.1 - 0.02, abs=0.01)
    assert apart.together == pytest.approx(0.8, abs=0.01)
    assert (apart.apart, apart.batch_dependence) == (0.5, 0.125)
    assert (apart.same_group, apart.same_group_chance) == pytest.approx((0.4, 0.25))
    assert f"| `{APART}` | {100 * (apart.together or 0):.1f} | 50.0 | " in section(made, "C3b")


def test_the_advice_and_the_page_have_one_swap_excess(made: Path) -> None:
    index = RecordIndex(made, params.read(made / "params.yaml"))
    rows = {str(row): own for row, own in index.rows("leakage").items()}
    found = diagnostics.swap_excess(rows[APART])
    entry = record_of(made, f"{APART}-s2", "leakage")
    leakage = json.loads(entry.read_text())["record"]["result"]["diagnostics"]["leakage"]
    assert found[2] == pytest.approx(leakage["swap_gap"] - leakage["swap_gap_initial"])
    assert evidence.swap_excess is diagnostics.swap_excess


def test_within_a_network_there_are_two_metrics_and_no_pool(made: Path) -> None:
    document = json.loads((made / FILES[1]).read_text(encoding="utf-8"))
    (entry,) = (c["advice"] for c in document["claims"] if c["id"] == "C3a")
    assert [entry["arms"][side]["name"] for side in ("plus", "minus")] == [SHUFFLED] * 2
    assert entry["arms"]["minus"]["metric"] == "pretext_regrouped"
    estimate = entry["estimate"]
    gaps = [line["difference"] for line in entry["seeds"]]
    assert estimate["mean"] == pytest.approx(sum(gaps) / 6, abs=1e-6)
    assert estimate["mean"] == pytest.approx(0.1, abs=0.01)
    assert (estimate["pooled_sd"], estimate["df"]) == (None, 5)
    assert len(entry["cells"]) == 6
    assert entry["sensitivity"] is None
    assert "Two measurements of the same networks" in section(made, "C3a")
    assert "BN groups redrawn" in section(made, "C3a")
    assert "Both arms have the recipe's rate" in section(made, "C3a")


def test_diagnostics_that_are_absent_decide_nothing(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for path in (tmp_path / "results/mini/records/leakage").rglob("*.json"):
        document = json.loads(path.read_text())
        document["record"]["result"]["diagnostics"] = {}
        path.write_text(json.dumps(document))
    write.write(tmp_path, "mini")
    for name in ("C3a", "C3b"):
        assert "has no finite value for seeds 0, 1, 2, 3, 4, 5" in section(tmp_path, name)
        assert "swap excess, points" not in section(tmp_path, name)
        assert "has no BN groups" in drawn(tmp_path, name)


def test_the_page_says_in_what_the_arms_differ_and_how_many_seeds_it_takes(made: Path) -> None:
    said = section(made, "C2")
    assert "The arms differ in `norms` and in nothing else; each has its own learning rate" in said
    assert "a standard deviation over seeds of 1 points (earlier records)" in said
    document = json.loads((made / FILES[1]).read_text(encoding="utf-8"))
    planned = {claim["id"]: claim["advice"]["planned"] for claim in document["claims"]}
    level = 0.05 / 6
    needed = power.seeds_for_equivalence(0.02, 0.01, level)
    assert planned["C2"]["for_equivalence"] == needed
    assert planned["C2"]["seeds"] == 6
    assert (
        "Equivalence within ±2 points cannot be shown with 6 seeds at this spread: "
        f"it takes {needed} seeds."
    ) in said
    assert planned["C2"]["reachable"] is False
    assert "Equivalence within ±0.25 decades cannot be shown" in section(made, "C1")


def test_half_way_is_where_it_was_planted(made: Path) -> None:
    found = judgements(made)["C1"].halfway
    assert found
    # BN ends at .5 and untrained networks are at .2; BN passes the middle at the second of three looks.
    assert found.target == pytest.approx(0.35)
    assert [speed.scheme for speed in found.speeds] == ["bn", "none-plain", "ln"]
    bn, plain, _ = found.speeds
    assert (bn.rate, plain.rate) == (1.0, 0.1)
    assert bn.images == pytest.approx([0.5 * 960] * 6)
    # .49 passes it between .345 at a half and .49 at the end, on a logarithmic scale.
    assert plain.images == pytest.approx([960 * 2 ** (-1 + 0.005 / 0.145)] * 6)
    assert not bn.at_most


def test_text_of_files_is_shown_as_it_is(tmp_path: Path) -> None:
    evil = "<b>x|$y$ [z](w) `q`"
    written = planted.claims()
    for claim in written["claims"].values():
        claim |= {"title": evil, "sentence": evil, "changes": evil}
        claim["advice"] |= {"question": evil}
    written["claims"]["C1"]["advice"]["unit"] = evil
    written["claims"]["C2"]["beside"][0]["text"] = evil
    stand(tmp_path, ALL)
    yaml(tmp_path / "claims.yaml", written)
    write.write(tmp_path, "mini")
    text = (tmp_path / FILES[0]).read_text(encoding="utf-8")
    assert "<b>" not in text
    assert "x|" not in text
    assert "&lt;b&gt;x\\|\\$y\\$ \\[z\\](w) \\`q\\`" in text
    for name in FIGURES:
        ElementTree.fromstring((tmp_path / name).read_bytes())


PROGRAM = """
import sys
from pathlib import Path
from benchmark.report.claims.write import write
assert not {"torch", "matplotlib", "scipy"} & set(sys.modules), "imported early"
write(Path(sys.argv[1]), "mini")
"""


def test_the_same_bytes_whatever_the_order_of_files_and_the_machines_settings(
    made: Path, tmp_path: Path
) -> None:
    found = []
    for number, backwards in enumerate((False, True)):
        root = tmp_path / str(number)
        root.mkdir()
        for name in ("params.yaml", "claims.yaml", "literature.yaml"):
            shutil.copy(made / name, root)
        sources = sorted((made / "results/mini").rglob("*.json"), reverse=backwards)
        for source in sources:
            if source.name != "claims.json":
                target = root / source.relative_to(made)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
        settings = root / "matplotlibrc"
        settings.write_text(f"font.size: {number + 1}0\n")
        environment = {**os.environ, "PYTHONHASHSEED": str(number), "MATPLOTLIBRC": str(settings)}
        command = [sys.executable, "-c", PROGRAM, str(root)]
        subprocess.run(command, check=True, cwd=tiny.PROJECT, env=environment)
        found.append([(root / name).read_bytes() for name in FILES])
    assert found[0] == found[1] == [(made / name).read_bytes() for name in FILES]
    assert all(str(tmp_path).encode() not in content for content in found[0])


def test_the_command_prints_what_it_wrote(
    made: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmark.cli import parser

    monkeypatch.chdir(made)
    assert parser.main(["claims"]) == 0
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == [
        "claims.md", "claims.json", *(f"{name}.svg" for name in NAMES), "literature.md",
    ]  # fmt: skip
    assert "unknown track 'minni'; did you mean 'mini'" in tiny.refusal(
        capsys, "claims", "--track", "minni"
    )


def test_a_claim_without_an_advice_has_only_its_description(tmp_path: Path) -> None:
    described = {"verdict": "refuted", "why": "It does not.", "sources": ["moco"]}
    claim = planted.claim(None, description=described)
    written = planted.claims(C1=claim, C2=planted.claim(planted.advice()))
    stand(tmp_path)
    yaml(tmp_path / "claims.yaml", written)
    write.write(tmp_path, "mini")
    document = json.loads((tmp_path / FILES[1]).read_text(encoding="utf-8"))
    assert document["comparisons"] == 1
    assert document["claims"][0]["advice"] is None
    assert "**What the method does: refuted.** It does not." in section(tmp_path, "C1")
    assert "Verdict" not in section(tmp_path, "C1")
    assert "| refuted | — | — | — | — |" in (tmp_path / FILES[0]).read_text(encoding="utf-8")


def test_the_arms_stand_in_the_order_of_the_difference(made: Path) -> None:
    said = section(made, "C2")
    assert said.index(f"| `{PLUS}` |") < said.index(f"| `{MINUS}` |")


OTHERS = sorted(path.parents[1].name for path in tiny.PROJECT.glob("tracks/*/claims/dvc.yaml"))


@pytest.mark.parametrize("track", [name for name in OTHERS if name != "mini"])
def test_another_track_of_the_project_is_judged_by_what_it_has(tmp_path: Path, track: str) -> None:
    """It has the arms of every claim, and need not have what is shown beside them."""
    for name in ("params.yaml", "claims.yaml", "literature.yaml", f"tracks/{track}/params.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(tiny.PROJECT / name, tmp_path / name)
    write.write(tmp_path, track)
    document = json.loads((tmp_path / f"results/{track}/claims.json").read_text(encoding="utf-8"))
    advices = [claim["advice"] for claim in document["claims"]]
    assert {entry["verdict"] for entry in advices} == {"undetermined"}
    assert all(entry["reasons"][0].startswith("no record of") for entry in advices)
    assert all(entry["planned"] for entry in advices)
