"""The model card of an exported backbone."""

from __future__ import annotations

from benchmark.data.manifest import Manifest
from benchmark.planning.cell import Task
from benchmark.planning.configuration import Configuration, NormConfig, PartConfig, ranking_key
from benchmark.provenance.program import Program
from benchmark.report.markdown import points, render
from benchmark.results.records import Record


def card(
    task: Task,
    record: Record,
    manifest: Manifest,
    width: int,
    plain: bool,
    program: Program | None,
) -> str:
    """The text of `README.md`; `plain` if timm alone can load the folder.

    `width` is the length of an embedding, `program` the one that made the record.
    """
    config = task.cell.config
    near = config.evaluation.knn_k[0]
    return render(
        "model_card.md.j2",
        cell=task.cell,
        config=config,
        licence=licence_of(config),
        fingerprint=task.fingerprint,
        norms={section: _norm(norm) for section, norm in config.norms.items()},
        data=manifest,
        images="×".join(map(str, manifest.shape)),
        accuracy=points(record.result.metrics.get(ranking_key(config.evaluation.knn_k))),
        neighbours=near,
        program=program or Program(),
        environment=record.environment,
        width=width,
        plain=plain,
        mean=list(manifest.mean),
        std=[deviation or 1.0 for deviation in manifest.std],
    )


def licence_of(config: Configuration) -> str:
    """The licence by the hub's names: that of weights from a file is not known here."""
    return "other" if config.backbone.weights_sha256 else "apache-2.0"


def _norm(norm: NormConfig | PartConfig) -> str:
    """E.g. `gn (groups 8)`."""
    options = ", ".join(f"{name} {value}" for name, value in norm.options.items())
    parts = norm.parts if isinstance(norm, NormConfig) else ()
    more = "".join(f"; {part.sites}: {_norm(part)}" for part in parts)
    return f"{norm.norm}{f' ({options})' if options else ''}{more}"
