"""The paper's analysis of one folder of traces: every table it has numbers for, from your own run."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import xarray as xr

from mfgjax.report.files import write_whole
from mfgjax.report.inputs import Inputs
from mfgjax.report.section import Section, Table
from mfgjax.report.sections import sections_of
from mfgjax.report.tables import write_table


@dataclasses.dataclass(frozen=True)
class Analysis:
    """What `analyze` found.

    Attributes:
        inputs: what the sections share: trajectory, held-out comparison, sensitivity.
        sections: in the order of the report, each with its tables, figures and verdict.
    """

    inputs: Inputs
    sections: tuple[Section, ...]

    @property
    def trajectory(self) -> xr.Dataset:
        """As `mfgjax.track` returns it."""
        return self.inputs.dataset

    @property
    def tables(self) -> tuple[Table, ...]:
        """Of all sections."""
        return tuple(table for section in self.sections for table in section.tables)

    @property
    def verdict(self) -> tuple[str, ...]:
        """What was found, a sentence each."""
        return tuple(line for section in self.sections for line in section.verdict)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a reader must know to use the numbers."""
        return tuple(note for section in self.sections for note in section.notes)


def analyze(
    traces: str | Path,
    *,
    resamples: int = 500,
    seed: int = 0,
    confidence: float = 0.95,
    stream: str = "decoder",
    types: tuple[int, ...] = (2, 4, 8),
    progress: Callable[[Sequence[int]], Iterable[int]] = lambda checkpoints: checkpoints,
) -> Analysis:
    """Trajectory, balance, decomposition, scope, and from token logits the static comparison.

    Args:
        traces: folder of trace files, one per checkpoint; statistics are enough for all but the
            static comparison and the continuation spread, which need one `tokens` file.
        resamples: bootstrap resamples of the texts, at least 1.
        seed: of every random draw.
        confidence: level of the intervals, in (0, 1).
        stream: `"decoder"` or `"encoder"`.
        types: numbers of token types of the multi-type models.
        progress: wraps the iteration over checkpoints.

    Raises:
        TraceError: no traces, or unsound ones.
        ValueError: `resamples` or `confidence` out of range, or too few texts to split.
    """
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}; the scope card needs at least 1 (say 500)")
    inputs = Inputs(traces, stream, resamples, seed, confidence, types, progress=progress)
    return Analysis(inputs, tuple(sections_of(inputs)))


def export_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Write `tables/*.csv|md|tex`, `figures/*.png|svg|pdf` and `report.html` under `folder`.

    Each file appears whole or not at all. Returns their paths.
    """
    from mfgjax.report.html import html_report

    paths, drawn = export_sections(analysis.sections, folder)
    page = html_report(analysis, drawn)
    return [*paths, write_whole(folder / "report.html", page)]


def export_sections(
    sections: Iterable[Section], folder: Path
) -> tuple[list[Path], dict[str, bytes]]:
    """Tables and figures of `sections` as files; returns their paths, and the figures as SVG."""
    from mfgjax.report.figures import rendered_figure

    paths, drawn = [], {}
    for section in sections:
        for table in section.tables:
            paths += write_table(table, folder / "tables")
        for picture in section.figures:
            rendered = rendered_figure(picture.draw())
            drawn[picture.name] = rendered["svg"]
            for end, content in rendered.items():
                paths.append(write_whole(folder / "figures" / f"{picture.name}.{end}", content))
    return paths, drawn
