"""Whatever stands in a params.yaml, there is a plan or one line that says what is wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import random
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from benchmark.cli import parser
from tests.helpers import slow, tiny

FILES = slow.counts(100, 600)
"""Made-up files that are tried in this process."""

SECONDS = 3.0
"""CPU time that a plan or a refusal may take; the usual one is a tenth of a second."""

TRACKS = ("mini", "cifar10", "fashion-mnist")

ODD: list[Any] = [
    None, True, False, 0, 1, -1, 2, 10**6, 2**63, -(2**64), 10**30, 10**400, 0.0, -0.0, 0.5, 1e-320,
    1e308, float("nan"), float("inf"), float("-inf"), "", " ", "bn", "x", "0", "1e-3", "null", "..",
    "../../etc", "a/b", "a\nb", "\x00", "\u202eabc", "norm\u00e9", "\U0001f4a5", "\ud83d", "x" * 5000,
    [], [[]], [None], [0], [1, 2, 3], ["bn", "bn"], {}, {"": 0}, {"norm": "bn"}, {"norm": []},
    {"norm": {"norm": "bn"}}, {"extends": "simclr"}, {"extends": None}, {"extends": ["a"]},
    {"method": 3},
    {"a": {"b": {"c": {}}}}, {"options": {}}, {"teacher": {"statistics": "eman"}}, list(range(3000)),
]  # fmt: skip
"""Values that belong nowhere, or only in some places."""

SPOILING = ["\t", "\x00", "\x85", "\ufeff", "\u2028", ":", ": ", "- ", "#", "{", "}", "[", "]", "&a ",
            "*a", "*strong", "!!", "!!python/name:os.system ", "!!binary x", "|", ">", "%", "@", "`",
            '"', "'", "---\n", "...\n", "? ", "<<: ", "\n", "\r", "\\", "\\x", ".nan", "1_0", "0x",
            "0o8", "1e999", "9" * 5000, "[" * 300, "{a: " * 300, "2001-01-01", "=", "~"]  # fmt: skip
"""Pieces of text that YAML gives a meaning to."""


def text_of(track: str) -> str:
    """A track's file; with the recipes' own learning rates, so that a plan needs no table of a sweep."""
    path = tiny.PROJECT / ("params.yaml" if track == "mini" else f"tracks/{track}/params.yaml")
    return path.read_text(encoding="utf-8").replace(
        "learning_rates: tuned", "learning_rates: default"
    )


TEXT = {track: text_of(track) for track in TRACKS}
REAL = {track: dict(YAML(typ="safe", pure=True).load(text)) for track, text in TEXT.items()}


def places(tree: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every entry of a tree."""
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        yield (*above, key)
        if isinstance(value, dict | list):
            yield from places(value, (*above, key))


def holder(tree: Any, path: tuple[Any, ...]) -> Any:
    for part in path[:-1]:
        tree = tree[part]
    return tree


def delete(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    del holder(tree, path)[path[-1]]


def rename(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    at, key = holder(tree, path), path[-1]
    if isinstance(at, dict):
        text = list(str(key))
        text[dice.randrange(len(text)) if text else 0 : 1] = dice.choice(["", "x", "é", " ", "._"])
        at["".join(text)] = at.pop(key)
    else:
        at.insert(0, at.pop(key))


def odd(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    holder(tree, path)[path[-1]] = copy.deepcopy(dice.choice(ODD))


def scaled(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    """A number of another size or type, where there is a number."""
    at, value = holder(tree, path), holder(tree, path)[path[-1]]
    if isinstance(value, int | float):
        at[path[-1]] = dice.choice([-value, value * 10**9, value / 7, float(value), str(value)])
    else:
        at[path[-1]] = [value, value]


def nudged(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    """A number a little larger, of its own type: often as good a file as before."""
    at, value = holder(tree, path), holder(tree, path)[path[-1]]
    if isinstance(value, int | float) and not isinstance(value, bool):
        at[path[-1]] = value + 1 if isinstance(value, int) else value * dice.choice([1.1, 1.5])


def swapped(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    """What stands in another place; also a name that means something else there."""
    other = dice.choice(list(places(tree)))
    holder(tree, path)[path[-1]] = copy.deepcopy(holder(tree, other)[other[-1]])


def added(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    at = holder(tree, path)
    if isinstance(at, dict):
        at[dice.choice(["extra", "extends", "norm", "options", "also", 5, "", "é"])] = dice.choice(
            ODD
        )
    else:
        at.append(copy.deepcopy(dice.choice(at)) if dice.random() < 0.5 else dice.choice(ODD))


def nested(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    value: Any = {}
    for _ in range(dice.choice([3, 30, 200])):
        value = [value] if dice.random() < 0.5 else {"norm": value}
    holder(tree, path)[path[-1]] = value


def wrong_name(tree: Any, path: tuple[Any, ...], dice: random.Random) -> None:
    """A misspelt reference to a method, view, scheme and so on."""
    at, value = holder(tree, path), holder(tree, path)[path[-1]]
    at[path[-1]] = f"{value}{dice.choice('xyz')}" if isinstance(value, str) else "simclrr"


CHANGES: list[Callable[[Any, tuple[Any, ...], random.Random], None]] = [
    delete, rename, odd, scaled, nudged, swapped, added, nested, wrong_name,
]  # fmt: skip


def cut(text: str, dice: random.Random) -> str:
    first = dice.randrange(len(text))
    return text[:first] + text[first + dice.randint(1, 40) :]


def spoilt(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return text[:at] + dice.choice(SPOILING) + text[at:]


def shifted(text: str, dice: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = dice.randrange(len(lines))
    lines[at] = dice.choice([" ", "  ", "      ", "\t"]) + lines[at]
    return "".join(lines)


def doubled(text: str, dice: random.Random) -> str:
    lines = text.splitlines(keepends=True)
    at = dice.randrange(len(lines))
    return "".join([*lines[: at + 1], *lines[at:]])


def ended(text: str, dice: random.Random) -> str:
    return text[: dice.randrange(len(text))]


DAMAGES: list[Callable[[str, random.Random], str]] = [cut, spoilt, shifted, doubled, ended]


def flow(tree: Any, escaped: bool = False) -> str:
    """A tree as YAML, which takes JSON but for numbers that JSON lacks."""
    text = json.dumps(tree, ensure_ascii=escaped)
    for json_name, yaml_name in (("-Infinity", "-.inf"), ("Infinity", ".inf"), ("NaN", ".nan")):
        text = text.replace(json_name, yaml_name)
    return text


def made_up(track: str, changes: list[int], damages: list[int], dice: random.Random) -> bytes:
    """A track's file with values changed, or, where there are `damages`, with its text spoilt."""
    if damages:
        text = TEXT[track]
        for damage in damages:
            text = DAMAGES[damage](text, dice) or "\n"
    else:
        tree = copy.deepcopy(REAL[track])
        for change in changes:
            CHANGES[change](tree, dice.choice(list(places(tree)) or [("track",)]), dice)
        text = flow(tree, escaped=dice.random() < 0.5)
    data = text.encode("utf-8", "surrogatepass")
    if dice.random() < 0.05:
        at = dice.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ (1 << dice.randrange(8))]) + data[at + 1 :]
    return data


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without images."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(tiny.PROJECT / "tracks", root / "tracks")
    shutil.copy(tiny.PROJECT / "params.yaml", root)
    return root


def ask(root: Path, track: str, data: bytes, experiment: str) -> tuple[int, str, str, float]:
    """Exit code, both outputs and the CPU time of a plan."""
    path = root / ("params.yaml" if track == "mini" else f"tracks/{track}/params.yaml")
    path.write_bytes(data)
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(root), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err),
        # Each would be further lines on stderr.
        warnings.catch_warnings(action="error"),
    ):  # fmt: skip
        begun = time.process_time()
        code = parser.main(["plan", "--track", track, "--experiment", experiment])
        seconds = time.process_time() - begun
    return code, out.getvalue(), err.getvalue(), seconds


def check(code: int, out: str, err: str) -> None:
    """A plan, or one line and exit code 2."""
    assert "Traceback" not in err
    if code == 0:
        assert " to train" in out
        assert err == ""
    else:
        assert code == 2
        assert out == ""
        assert err.startswith("benchmark: ")
        # Not str.splitlines, for which a form feed ends a line and a terminal's line goes on.
        assert err.count("\n") == 1
        assert err.endswith("\n")


@pytest.mark.parametrize("files", FILES)
def test_any_file_gives_a_plan_or_one_line(root: Path, files: int) -> None:
    tried = {"plans": 0, "refusals": 0}

    @settings(
        max_examples=files, derandomize=True, deadline=None, database=None,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        track=st.sampled_from(TRACKS),
        changes=st.lists(st.integers(0, len(CHANGES) - 1), min_size=1, max_size=3),
        damages=st.one_of(
            st.just([]), st.lists(st.integers(0, len(DAMAGES) - 1), min_size=1, max_size=2)
        ),
        seed=st.integers(0, 2**32),
        experiment=st.sampled_from(["leaderboard", "leaderboard", "methods", "head"]),
    )
    def one(track: str, changes: list[int], damages: list[int], seed: int, experiment: str) -> None:
        data = made_up(track, changes, damages, random.Random(seed))
        # Other tracks have a leaderboard alone, and to ask for more is refused whatever the file.
        asked = experiment if track == "mini" else "leaderboard"
        code, out, err, seconds = ask(root, track, data, asked)
        check(code, out, err)
        assert seconds < SECONDS
        tried["refusals" if code else "plans"] += 1

    one()
    # The files are neither all refused at their first character nor all taken.
    assert sum(tried.values()) >= files * 5 / 6
    assert tried["plans"] >= files / 24, tried
    assert tried["refusals"] >= files * 5 / 12


ALIASES = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
"""Thirty lines that stand for more entries than there are atoms in a cup of tea."""

FIRST_SEEDS = "    seeds: [0, 1]\n"


def chain(length: int) -> str:
    """Recipes that each extend the next."""
    links = "".join(f"  m{n}: {{extends: m{n + 1}}}\n" for n in range(length))
    return f"methods:\n{links}  m{length}: {{extends: simclr}}\n"


BOMBS: dict[str, Callable[[str], str]] = {
    "aliases of aliases": lambda text: f"a0: &a0 [x]\n{ALIASES}{text}",
    "an alias of itself": lambda text: f"a: &a [*a]\n{text}",
    "a merge of itself": lambda text: f"{text}extra: &a\n  <<: *a\n",
    "a recipe that extends a recipe that extends a recipe": lambda text: text.replace(
        "methods:\n", chain(3000), 1
    ),
    "thousands of keys": lambda text: text + "".join(f"k{n}: 1\n" for n in range(20_000)),
    "thousands of seeds": lambda text: text.replace(
        FIRST_SEEDS, f"    seeds: {list(range(20_000))}\n", 1
    ),
    "thousands of lists in lists": lambda text: f"{text}extra: {'[' * 5000}\n",
    "hundreds of mappings in mappings": lambda text: f"{text}extra: {'{a: ' * 300}1{'}' * 300}\n",
    "every key twice": lambda text: text + text,
    "an anchor twice": lambda text: text.replace("  weak:", "  weak: &strong", 1),
    "half a character": lambda text: text.replace("title:", 'title: "\\ud83d" #', 1),
    "a title of a million letters": lambda text: text.replace(
        "title:", f"title: {'x' * 10**6} #", 1
    ),
    "a million trials": lambda text: text.replace(
        "  learning_rates: 5", "  learning_rates: 1000000", 1
    ),
    "a day for a number": lambda text: text.replace("  seed: 0", "  seed: 2001-01-01", 1),
    "bytes for a key": lambda text: f"!!binary aGk=: 1\n{text}",
    "a number of thousands of digits": lambda text: text.replace(
        "  seed: 0", f"  seed: {'9' * 5000}", 1
    ),
    "nothing": lambda text: "",
    "zeros": lambda text: "\0" * 1000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_made_to_break_its_reader_gives_a_plan_or_one_line(root: Path, name: str) -> None:
    text = BOMBS[name](TEXT["mini"])
    assert text != TEXT["mini"]
    code, out, err, seconds = ask(root, "mini", text.encode(), "leaderboard")
    check(code, out, err)
    assert code == (0 if "million" in name else 2)
    assert seconds < SECONDS


@pytest.mark.parametrize("verb", ["plan", "data", "train", "leaderboard"])
@pytest.mark.parametrize("name", ["aliases of aliases", "an anchor twice", "every key twice"])
def test_the_real_command_says_the_same(root: Path, name: str, verb: str) -> None:
    (root / "params.yaml").write_text(BOMBS[name](TEXT["mini"]), encoding="utf-8")
    done = tiny.run(root, verb)
    check(done.returncode, done.stdout, done.stderr)
    assert done.returncode == 2
