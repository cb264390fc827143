"""An analysis as files: tables, figures and the report."""

from pathlib import Path

from matplotlib.figure import Figure

from mfgjax.report.analysis import Analysis
from mfgjax.report.analysis_figures import (
    continuation_figure,
    decomposition_figure,
    heat_map_figure,
    held_out_figure,
)
from mfgjax.report.html_report import html_report
from mfgjax.report.permutation_panel import excess_figure
from mfgjax.report.robustness import robustness_figure
from mfgjax.report.table_export import export_tables
from mfgjax.report.trajectory_figure import trajectory_figure
from mfgjax.report.type_figures import type_count_figure, types_over_training_figure
from mfgjax.report.whole_file import whole_file

TRAJECTORY, HEAT_MAP, DECOMPOSITION = "trajectory", "heat_map", "decomposition"
HELD_OUT, CONTINUATION, ROBUSTNESS = "heldout_error", "continuation", "robustness"
TYPE_COUNT, TYPES_OVER_TRAINING = "type_count", "types_over_training"
EXCESS = "permutation_excess"


def analysis_figures(analysis: Analysis) -> dict[str, Figure]:
    """Every figure that the analysis has numbers for, by file name."""
    dataset = analysis.trajectory
    level = dataset.confidence
    figures = {
        TRAJECTORY: trajectory_figure(dataset),
        HEAT_MAP: heat_map_figure(dataset),
        DECOMPOSITION: decomposition_figure(dataset),
        ROBUSTNESS: robustness_figure(analysis.sensitivity, dataset.step.values),
    }
    if analysis.excess:
        figures[EXCESS] = excess_figure(analysis.excess)
    if analysis.comparison is not None:
        figures[HELD_OUT] = held_out_figure(analysis.comparison, level)
    if analysis.continuation is not None:
        figures[CONTINUATION] = continuation_figure(*analysis.continuation, level)
    if analysis.types is not None:
        figures[TYPE_COUNT] = type_count_figure(analysis.types.counts)
        if len(analysis.types.over_training.checkpoints) > 1:
            over = types_over_training_figure(analysis.types.over_training, level)
            figures[TYPES_OVER_TRAINING] = over
    return figures


def export_analysis(analysis: Analysis, folder: Path) -> list[Path]:
    """Write `tables/*.csv|md|tex`, `figures/*.png|svg` and `report.html` under `folder`.

    Each file appears whole or not at all. Returns their paths.
    """
    figures = analysis_figures(analysis)
    paths = export_tables(analysis.tables, figures, folder)
    report = folder / "report.html"
    with whole_file(report) as partial:
        partial.write_text(html_report(analysis, figures), encoding="utf-8")
    return [*paths, report]
