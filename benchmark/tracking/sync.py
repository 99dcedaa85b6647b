"""Brings MLflow up to date with the published records.

MLflow is a view of the records, so nothing is lost with a server. The tag `cell` identifies a run. The
checksums that a run was made from are written last and mark it as complete, so a sync can be interrupted
at any time, and the next one completes it.
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
"""Environment variables of MLflow and their values if the user has not set them."""

LONGEST = 600
"""Characters of MLflow's errors that are shown: the remedy is at their end."""

_FIRST = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
"""For the first call, which fails if there is no server: MLflow would try for half a minute."""

_METRICS_A_CALL, _OTHERS_A_CALL = 1000, 100
_DIGEST = 12
"""Characters of a dataset's checksum in its digest: MLflow keeps 36, and a column shows a few."""


@dataclass(frozen=True)
class Synced:
    """The numbers of runs that a sync changed."""

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
    """Makes the runs of a track match its records.

    `uri` is the address of a tracking server or of a database; the default is
    `$MLFLOW_TRACKING_URI`, else the database in `root`. Raises UserError if the track has no results, or
    if MLflow refuses or does not answer. Only one sync of a project runs at a time; another waits.
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

    _quieten()
    # Two processes that create a database at once both fail.
    with records.store(root).lock("sync"):
        try:
            with _settings(_SETTINGS | _FIRST):
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
            with _settings(_SETTINGS):
                return _Sync(client, uri, root, track).run(entries)
        except (MlflowException, RequestException, SQLAlchemyError) as error:
            raise UserError(f"MLflow at {_shown(uri)}: {_reason(error)}") from None


def watch(root: Path, track: str, uri: str | None = None, seconds: float = 5.0) -> None:
    """Syncs after every change of the track's results, checked every `seconds`, until Ctrl-C.

    A server that does not answer is reported once and tried again.
    """
    seen: object = None
    reported = ""
    while True:
        now = _state(root / "results" / track)
        if now != seen:
            try:
                line = str(sync(root, track, uri))
                seen = now
            except (UserError, FileNotFoundError) as error:
                # The latter if records are just being replaced: the next check finds the new ones.
                line = str(error)
            if line != reported:
                print(line, file=sys.stderr, flush=True)
            reported = line
        time.sleep(seconds)


def _state(folder: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of all files below a folder, which are cheap to read often."""
    found = []
    for path in sorted(folder.rglob("*")):
        # A file may be deleted after it was listed.
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
        # Only in a terminal.
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
        """The ids of the experiments that a sync of this track made, by name."""
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
        """Makes one run, unless a complete one exists; removes its cell from `there`."""
        runs = there.pop(view.cell, [])
        current = [run for run in runs if view.stamp.items() <= run.data.tags.items()]
        if current:
            # Several exist if an earlier sync was interrupted, or if a deleted run was restored.
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
        # Nearly always one call.
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
        """The id of the experiment, which is made or restored if needed and described."""
        found = self._find_experiment(name)
        if found is None:
            identifier = self.client.create_experiment(name, self._location(name))
            found = self.client.get_experiment(identifier)
        identifier = str(found.experiment_id)
        tags = {
            "track": self.track,
            runview.NOTE: experimentview.description(identifier, self.track, experiment, cells),
            # Without it, MLflow's pages show an experiment with language models.
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
        # The project's folder was moved, and its artifacts with it: make a new experiment.
        self.client.rename_experiment(found.experiment_id, f"{name} (moved, {found.experiment_id})")
        self.client.delete_experiment(found.experiment_id)
        return None

    def _location(self, name: str) -> str | None:
        """Where an experiment's artifacts are stored; None if the server decides."""
        if not self.uri.startswith("sqlite:///"):
            return None
        path, *_ = self.uri.removeprefix("sqlite:///").partition("?")
        database = Path(unquote(path)).resolve()
        return (database.parent / ARTIFACTS / name).as_uri()

    def _runs(self, experiment: str) -> dict[str, list[Run]]:
        """The experiment's runs by their tag `cell`; runs without this tag are not ours."""
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
        """Deletes an experiment without records, unless it has runs of others."""
        self._remove(self._runs(identifier))
        if not self.client.search_runs([identifier], max_results=1):
            self.client.delete_experiment(identifier)

    def _explain_default(self) -> None:
        """Describes the empty experiment that every new database has."""
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

    Tables are the files `<experiment>.*` in the track's results. A figure belongs to the experiment with
    whose name it begins, or else to every experiment.
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


def _quieten() -> None:
    """Warnings only, from MLflow and from the tool that creates its tables.

    Errors of the database are not logged either: MLflow raises them too, and they become one line.
    """
    levels = {
        "mlflow": logging.WARNING,
        "alembic": logging.WARNING,
        "mlflow.store.db": logging.CRITICAL,
    }
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def _shown(text: str) -> str:
    """A URI, or a text with some, without users and passwords."""
    return re.sub(r"://[^/@\s]*@", "://", text)


def _reason(error: Exception) -> str:
    """What went wrong in one line without passwords."""
    # The database's own message is inside two layers of others.
    database = getattr(error if hasattr(error, "orig") else error.__cause__, "orig", None)
    text = _shown(str(database or error)).strip()
    if "Max retries exceeded" in text:
        return "no answer; is the server running?"
    return text.partition("\n")[0][:LONGEST] or type(error).__name__
