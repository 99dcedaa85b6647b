"""Writes the files of `benchmark claims`: the page, its JSON and its figures."""

from __future__ import annotations

from pathlib import Path

from benchmark.analysis.claims import judge, literature, load, matched
from benchmark.config.schema import Params
from benchmark.core import canonical_json
from benchmark.report.claims import literature_page


def write(root: Path, track: str, own: Params | None = None) -> list[Path]:
    """Writes `results/<track>/claims.{md,json}`, `figures/claims/<claim>.svg`, `results/literature.md`.

    `own` are the track's params, which are read from its file if not given. Returns the paths. Raises
    UserError if a name in the claims does not exist in the project's params, and for a record of another
    configuration than its track's params ask for.
    """
    # These import matplotlib.
    from benchmark.report.claims import document, figures, page, ranking

    indexes = literature.indexes(root, own)
    claims, library = load.read(root), literature.read(root, indexes)
    # The claims are written for the main params; other tracks may lack rows.
    load.check(claims, indexes["mini"].params, library.entries)
    index = indexes[track]
    matched.check(claims, index.params)
    verdicts = judge.judge(claims, index)
    compared = {
        claim: {
            name: literature.compare(library.entries[name], index, claim) for name in own.literature
        }
        for claim, own in claims.claims.items()
    }
    folder = root / "results" / track
    ranks = ranking.ranking(folder)
    text = page.markdown(claims, index.params, verdicts, library, compared, ranks)
    contents: dict[Path, str | bytes] = {
        folder / "claims.md": text,
        folder / "claims.json": document.json(claims, index.params, verdicts, compared),
    }
    for judged in verdicts:
        drawn = figures.drawn(judged, index)
        contents[folder / "figures" / "claims" / f"{judged.name}.svg"] = drawn
    if ranks:
        contents[folder / ranking.RANKS_FIGURE] = ranking.diagram(ranks)
    tracks = literature.compared(library, indexes, track)
    contents[root / "results" / "literature.md"] = literature_page.markdown(library, tracks)
    # All at the end, so that an error above leaves the files as they were.
    for path, content in contents.items():
        canonical_json.write(path, content)
    return list(contents)
