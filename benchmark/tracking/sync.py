"""Brings MLflow up to date with the published records.

MLflow is a view: records are the truth, and nothing is lost with a server. A run is identified by
its tag `cell` and counts as complete by the checksums it was made from, which are written last; so
a sync can be interrupted anywhere, and the next one puts things right.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sys
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from tqdm import tqdm

from benchmark.core.errors import UserError
from benchmark.results import published as collect
from benchmark.results import records
from benchmark.results.published import Published
from benchmark.tracking import experiments as experimentview
from benchmark.tracking import runs as runview
from benchmark.tracking.runs import RunView

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

DATABASE = "mlflow.db"
"""The file that `mlflow ui` opens by default in the folder it is started in."""

ARTIFACTS = "mlartifacts"
"""The folder that `mlflow ui` keeps artifacts in by default."""

_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Environment variables of MLflow and their values where the user has set none."""

LONGEST = 600
"""Characters of MLflow's errors that are shown: the remedy is at their end."""

_FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""Of the first call, which finds out whether a server is there: without these half a minute is lost."""

_METRICS_A_CALL, _OTHERS_A_CALL = 1000, 100
_DIGEST = 12
"""Characters of a dataset's checksum in its digest: MLflow keeps 36, and a column shows a few."""


@dataclass(frozen=True)
class Synced:
    """What a sync did, in runs."""

    created: int = 0
    replaced: int = 0
    unchanged: int = 0
    removed: int = 0
    where: str = ""
    """The server or database, without any password."""
    records: Mapping[str, str] = field(default_factory=dict)
    """The checksum of each record by the name of its cell."""

    def __str__(self) -> str:
        return (
            f"{self.where}: {self.created} runs created, {self.replaced} replaced, "
            f"{self.unchanged} unchanged, {self.removed} removed"
        )


def default_database(root: Path) -> str:
    """The address of the database in `root`, the one that `mlflow ui` opens there."""
    path = str(root.resolve() / DATABASE)
    # SQLAlchemy unquotes `%2F` and cuts at `?`; MLflow makes the folders of a quoted path.
    return f"sqlite:///{os.path.relpath(path) if '%' in path or '?' in path else path}"


def sync(root: Path, track: str, uri: str | None = None) -> Synced:
    """Makes the runs of a track those of its records, and says what that took.

    `uri` is the address of a tracking server or of a database; the default is
    `$MLFLOW_TRACKING_URI`, else the database in `root`. UserError, in one line, where the track has
    no results or MLflow refuses or does not answer. One sync of a project runs at a time; another
    waits for it.
    """
    results = root / "results" / track
    if not results.is_dir():
        raise UserError(f"results/{track} does not exist: there is nothing to sync")
    entries = collect.read_all(root, track)
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or default_database(root)
    with _settings(_SETTINGS):
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

    # Two processes that create a database at once both fail.
    with _quiet(), records.store(root).lock("sync"):
        try:
            with _settings(_SETTINGS | _FIRST):
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
            with _settings(_SETTINGS):
                return _Sync(client, uri, root, track).run(entries)
        except (MlflowException, RequestException, SQLAlchemyError) as error:
            raise UserError(f"MLflow at {_shown(uri)}: {_reason(error)}") from None


def watch(root: Path, track: str, uri: str | None = None, seconds: float = 5.0) -> None:
    """Syncs whenever the track's results have changed, looking every `seconds`, until Ctrl-C.

    A server that does not answer is mentioned once and tried again.
    """
    seen: object = None
    told = ""
    while True:
        now = _state(root / "results" / track)
        if now != seen:
            try:
                line = str(sync(root, track, uri))
                seen = now
            except (UserError, FileNotFoundError) as error:
                # The latter where records are just being replaced: the next look finds the new ones.
                line = str(error)
            if line != told:
                print(line, file=sys.stderr, flush=True)
            told = line
        time.sleep(seconds)


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all files below a folder: cheap to look at every few seconds."""
    found = []
    for path in sorted(folder.rglob("*")):
        # A file may be gone between the listing and the look: the next look sees to that.
        with contextlib.suppress(FileNotFoundError):
            facts = path.stat()
            found.append((str(path), facts.st_size, facts.st_mtime_ns))
    return found


class _Sync:
    """One pass over a track."""

    def __init__(self, client: MlflowClient, uri: str, root: Path, track: str) -> None:
        self.client, self.uri, self.root, self.track = client, uri, root, track
        self.store = records.store(root)
        self.counts = {"created": 0, "replaced": 0, "unchanged": 0, "removed": 0}

    def run(self, entries: Sequence[Published]) -> Synced:
        published: dict[str, list[Published]] = {}
        for entry in entries:
            published.setdefault(entry.experiment, []).append(entry)
        kept = self._existing_experiments()
        # None in a file: progress is for people who look on.
        with tqdm(total=len(entries), desc="sync", unit="run", disable=not sys.stderr.isatty(),
                  dynamic_ncols=True) as bar:  # fmt: skip
            for experiment, cells in published.items():
                kept.pop(f"{self.track}/{experiment}", None)
                reports = report_files(self.root, self.track, experiment, published)
                self._sync_experiment(experiment, cells, reports, bar)
        for identifier in kept.values():
            self._remove_experiment(identifier)
        self._explain_default()
        checksums = {entry.name: entry.checksum for entry in entries}
        return Synced(**self.counts, where=_shown(self.uri), records=checksums)

    def _existing_experiments(self) -> dict[str, str]:
        """Experiments that a sync of this track made: name → id."""
        found = self.client.search_experiments(filter_string=f"tags.track = '{self.track}'")
        return {experiment.name: experiment.experiment_id for experiment in found}

    def _sync_experiment(
        self,
        experiment: str,
        cells: Sequence[Published],
        reports: Sequence[tuple[Path, str]],
        bar: tqdm[Any],
    ) -> None:
        identifier = self._experiment(f"{self.track}/{experiment}", experiment, cells)
        there = self._runs(identifier)
        if reports:
            self._sync_run(identifier, runview.of_reports(self.track, experiment, reports), there)
        for entry in cells:
            log = self.store.run_log(entry.record.fingerprint)
            self._sync_run(identifier, runview.of_cell(entry, log), there)
            bar.update()
        self._remove(there)

    def _sync_run(self, experiment: str, view: RunView, there: dict[str, list[Run]]) -> None:
        """Makes one run, unless a complete one is there; takes its cell out of `there`."""
        runs = there.pop(view.cell, [])
        current = [run for run in runs if view.stamp.items() <= run.data.tags.items()]
        if current:
            # More than one: an earlier sync was interrupted, or somebody restored a deleted run.
            self._delete([run for run in runs if run is not current[0]])
            self.counts["unchanged"] += 1
            return
        self._log(experiment, view)
        # Deleted last, so that a reader always finds the cell.
        self._delete(runs)
        self.counts["replaced" if runs else "created"] += 1

    def _log(self, experiment: str, view: RunView) -> None:
        from mlflow.entities import Metric, Param, RunTag

        run = self.client.create_run(experiment, view.begun, dict(view.tags), view.label)
        identifier = run.info.run_id
        self._log_dataset(identifier, view)
        for name, text in view.documents.items():
            self.client.log_text(identifier, text, name)
        for path, place in view.files:
            self.client.log_artifact(identifier, str(path), place or None)
        status = "FINISHED" if view.finished else "FAILED"
        self.client.set_terminated(identifier, status, view.ended)
        metrics = [Metric(p.key, p.value, view.ended, p.step) for p in view.points]
        params = [Param(key, value) for key, value in view.params.items()]
        # Nearly always a single call; only a record of another size than ours needs more.
        while len(metrics) > _METRICS_A_CALL or len(params) > _OTHERS_A_CALL:
            self.client.log_batch(identifier, metrics[:_METRICS_A_CALL], params[:_OTHERS_A_CALL])
            metrics, params = metrics[_METRICS_A_CALL:], params[_OTHERS_A_CALL:]
        # With the stamp the run is complete; MLflow stores a batch's tags after the rest of it.
        stamp = [RunTag(key, value) for key, value in view.stamp.items()]
        self.client.log_batch(identifier, metrics, params, stamp)

    def _log_dataset(self, run: str, view: RunView) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        if view.dataset is None:
            return
        name, sha256 = view.dataset
        dataset = Dataset(
            name=name,
            digest=sha256[:_DIGEST],
            source_type="local",
            source=f'{{"uri": "data/{name}/manifest.json"}}',
            profile=f'{{"sha256": "{sha256}"}}',
        )
        tags = [InputTag("mlflow.data.context", "all splits")]
        self.client.log_inputs(run, [DatasetInput(dataset, tags)])

    def _experiment(self, name: str, experiment: str, cells: Sequence[Published]) -> str:
        """The id of the experiment, made or restored where needed, described as it is now."""
        found = self._find_experiment(name)
        if found is None:
            identifier = self.client.create_experiment(name, self._location(name))
            found = self.client.get_experiment(identifier)
        identifier = str(found.experiment_id)
        tags = {
            "track": self.track,
            runview.NOTE: experimentview.description(identifier, self.track, experiment, cells),
            # For pages that would otherwise take it for an experiment with language models.
            "mlflow.experimentKind": "custom_model_development",
            **experimentview.saved_views(),
        }
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(identifier, key, value)
        return identifier

    def _find_experiment(self, name: str) -> Experiment | None:
        location = self._location(name)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            return None
        if found.lifecycle_stage != "active":
            self.client.restore_experiment(found.experiment_id)
        if location in (None, found.artifact_location):
            return found
        # The project's folder was moved, and with it the artifacts: start afresh here.
        self.client.rename_experiment(found.experiment_id, f"{name} (moved, {found.experiment_id})")
        self.client.delete_experiment(found.experiment_id)
        return None

    def _location(self, name: str) -> str | None:
        """Where an experiment's artifacts go; None where the server decides."""
        if not self.uri.startswith("sqlite:///"):
            return None
        path, *_ = self.uri.removeprefix("sqlite:///").partition("?")
        database = Path(unquote(path)).resolve()
        return (database.parent / ARTIFACTS / name).as_uri()

    def _runs(self, experiment: str) -> dict[str, list[Run]]:
        """The experiment's runs by their tag `cell`; runs without one are other people's."""
        found: dict[str, list[Run]] = {}
        token: str | None = None
        while True:
            page = self.client.search_runs([experiment], max_results=1000, page_token=token)
            for run in page:
                if "cell" in run.data.tags:
                    found.setdefault(run.data.tags["cell"], []).append(run)
            token = page.token
            if not token:
                return found

    def _remove_experiment(self, identifier: str) -> None:
        """Takes an experiment away that has no records any more, unless others have runs in it."""
        self._remove(self._runs(identifier))
        if not self.client.search_runs([identifier], max_results=1):
            self.client.delete_experiment(identifier)

    def _explain_default(self) -> None:
        """Says of the experiment that every new database has that nothing is to be found there."""
        if self.uri != default_database(self.root):
            return
        default = self.client.get_experiment("0")
        if default.lifecycle_stage == "active" and runview.NOTE not in default.tags:
            self.client.set_experiment_tag("0", runview.NOTE, "Empty; MLflow always makes it.")

    def _remove(self, there: Mapping[str, Sequence[Run]]) -> None:
        for runs in there.values():
            self._delete(runs)
            self.counts["removed"] += 1

    def _delete(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.client.delete_run(run.info.run_id)


def report_files(
    root: Path, track: str, experiment: str, experiments: Collection[str]
) -> list[tuple[Path, str]]:
    """The tables and figures of an experiment, each with its folder among a run's artifacts.

    Tables are the files `<experiment>.*` in the track's results. A figure belongs to the experiment
    whose name its own begins with, and to every one where it begins with none.
    """
    results = root / "results" / track
    tables = [path for path in results.glob(f"{experiment}.*") if path.is_file()]
    figures = []
    for path in (results / "figures").glob("[!.]*"):
        owners = [name for name in experiments if path.name.startswith(name)]
        if path.is_file() and max(owners, key=len, default=experiment) == experiment:
            figures.append(path)
    return [(path, "") for path in sorted(tables)] + [(path, "figures") for path in sorted(figures)]


@contextlib.contextmanager
def _settings(values: Mapping[str, str]) -> Iterator[None]:
    """Sets environment variables, except those that the user has set."""
    new = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(new)
    try:
        yield
    finally:
        for name in new:
            del os.environ[name]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings only, from MLflow and from the tool that creates its tables.

    Of the database's errors not even these: MLflow logs a traceback and raises the same error, which
    becomes one line.
    """
    levels = {
        "mlflow": logging.WARNING,
        "alembic": logging.WARNING,
        "mlflow.store.db": logging.CRITICAL,
    }
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _shown(text: str) -> str:
    """A URI, or a text with some, without users and passwords."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _reason(error: Exception) -> str:
    """What went wrong in one line without passwords."""
    # What the database itself says stands behind the words of two layers around it.
    database = getattr(error if hasattr(error, "orig") else error.__cause__, "orig", None)
    text = _shown(str(database or error)).strip()
    if "Max retries exceeded" in text:
        return "no answer; is the server running?"
    return text.partition("\n")[0][:LONGEST] or type(error).__name__
