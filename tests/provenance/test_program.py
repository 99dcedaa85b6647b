"""A program knows its commit, whether its tree was changed, its lock and its image."""

from __future__ import annotations

import hashlib
import json
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from benchmark.provenance import program as module
from benchmark.provenance.program import as_locked, program


def git(top: Path, *arguments: str) -> str:
    command = ["git", "-C", str(top), "-c", "user.name=n", "-c", "user.email=e", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def top(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout of a program with a lock, at its first commit."""
    monkeypatch.setattr(module, "CODE", tmp_path)
    monkeypatch.setattr(module, "IMAGE", tmp_path / "nowhere" / "image.json")
    (tmp_path / "code.py").write_text("1\n")
    (tmp_path / "uv.lock").write_text(
        f'[[package]]\nname = "numpy"\nversion = "{version("numpy")}"\n'
    )
    (tmp_path / ".gitignore").write_text("ignored\n")
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "table.md").write_text("old\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


@pytest.fixture(params=["git", "no git"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With git, and where there is none, as in the image."""
    if request.param == "no git":
        monkeypatch.setattr(module.shutil, "which", lambda name: None)


def test_a_clean_checkout(top: Path, either: None) -> None:
    found = program()
    assert found.commit == git(top, "rev-parse", "HEAD")
    assert found.dirty is False
    assert found.lock_sha256 == hashlib.sha256((top / "uv.lock").read_bytes()).hexdigest()
    assert found.as_locked is True
    assert found.image is None


@pytest.mark.parametrize(
    ("name", "dirty"),
    [
        ("code.py", True),
        ("uv.lock", True),
        ("new.py", True),
        ("deep/new.py", True),
        ("ignored", False),
        ("results/table.md", False),
        ("results/new.json", False),
        ("dvc.lock", False),
        ("tracks/mini/dvc.lock", False),
    ],
)
def test_what_makes_a_tree_dirty(top: Path, either: None, name: str, dirty: bool) -> None:
    (top / name).parent.mkdir(parents=True, exist_ok=True)
    with (top / name).open("a") as file:
        file.write("# changed\n")
    assert program().dirty is dirty


def test_a_staged_change_is_one_too(top: Path, either: None) -> None:
    (top / "code.py").write_text("2\n")
    git(top, "add", ".")
    assert program().dirty is True


def test_a_folder_without_a_checkout_has_no_commit(top: Path) -> None:
    (top / ".git").rename(top / "elsewhere")
    found = program()
    assert found.commit is None
    assert found.dirty is None


def test_another_repository_of_whoever_started_it_is_not_ours(
    top: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    git(other, "init", "--quiet")
    git(other, "commit", "--quiet", "--allow-empty", "--message", "other")
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    found = program().commit
    monkeypatch.delenv("GIT_DIR")
    assert found == git(top, "rev-parse", "HEAD")


def test_packages_of_another_version_than_the_lock_names(top: Path) -> None:
    (top / "uv.lock").write_text('[[package]]\nname = "numpy"\nversion = "0.0.1"\n')
    assert program().as_locked is False


def test_of_several_locked_versions_any_will_do(top: Path) -> None:
    with (top / "uv.lock").open("a") as file:
        file.write('[[package]]\nname = "numpy"\nversion = "0.0.1"\n')
    assert as_locked(top / "uv.lock")


def test_the_image_says_what_its_program_is(
    top: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path_factory.mktemp("image")
    facts = {"commit": "c" * 40, "lock_sha256": "l" * 64, "base": "b", "base_digest": "sha256:d"}
    (image / "image.json").write_text(json.dumps(facts))
    (image / "uv.lock").write_bytes((top / "uv.lock").read_bytes())
    monkeypatch.setattr(module, "IMAGE", image / "image.json")
    monkeypatch.delenv(module.IMAGE_ID, raising=False)
    # A checkout mounted into the image is a program of its own.
    assert program().commit == git(top, "rev-parse", "HEAD")
    assert program().image == module.Image(**facts)
    monkeypatch.setattr(module, "CODE", tmp_path_factory.mktemp("site-packages"))
    monkeypatch.setenv(module.IMAGE_ID, "sha256:i")
    found = program()
    assert (found.commit, found.dirty) == ("c" * 40, False)
    assert (found.lock_sha256, found.as_locked) == ("l" * 64, True)
    assert found.image is not None
    assert found.image.id == "sha256:i"


def test_the_project_itself_is_at_a_commit() -> None:
    if not (module.CODE / ".git").exists():
        pytest.skip("not a checkout")
    assert program().commit == git(module.CODE, "rev-parse", "HEAD")
