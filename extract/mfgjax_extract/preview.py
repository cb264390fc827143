"""What `--dry-run` and `inspect` print: read from configurations, no weights loaded."""

import re

from rich.console import Console
from rich.table import Table

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.revisions import Revision
from mfgjax_extract.router_table import build_without_weights, router_table
from mfgjax_extract.routers import find_routers
from mfgjax_extract.sweep import SweepSettings, kinds_for
from mfgjax_extract.trace_file import trace_path


def show_router_table(revision: Revision, trust_remote_code: bool) -> None:
    """Print one row per kind of router.

    Raises:
        RoutingError: the model has no router.
    """
    model = build_without_weights(revision.source, revision.hub_revision, trust_remote_code)
    rows = router_table(model)
    if not rows:
        raise RoutingError(f"no router found in {type(model).__name__}")
    table = Table(title=f"{revision.source} ({rows[0].family})", title_justify="left")
    names = ("router", "path", "M", "K", "scoring", "bias", "alpha", "shared", "layers")
    for name in names:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(
            row.router_class,
            row.path + ("" if row.tapped else " (not reached by text)"),
            str(row.experts),
            "?" if row.top_k is None else str(row.top_k),
            row.scoring or "?",
            "yes" if row.selection_bias else "no",
            "none" if row.aux_loss_coef is None else f"{row.aux_loss_coef:g}",
            "yes" if row.shared_experts else "no",
            _ranges(row.layers),
        )
    console = Console(width=None if Console().is_terminal else 160)
    console.print(table)
    if rows[0].settings:
        settings = ", ".join(f"{k} = {v}" for k, v in sorted(rows[0].settings.items()))
        console.print(f"configuration: {settings}", highlight=False, soft_wrap=True)


def plan_on_terminal(revisions: list[Revision], settings: SweepSettings) -> None:
    """Print the modules that would be tapped in the first checkpoint, and the files for each."""
    first = revisions[0]
    model = build_without_weights(first.source, first.hub_revision, settings.trust_remote_code)
    console = Console(highlight=False, soft_wrap=True)
    for router in find_routers(model):
        tapped = router.reached_by_text and re.search(settings.layers, router.path)
        note = "" if tapped else "  (left out)"
        console.print(
            f"{router.path}  {type(router.module).__name__}  M={router.num_experts}{note}"
        )
    for revision in revisions:
        for kind in kinds_for(revision, settings):
            path = trace_path(settings.out, revision.label, kind)
            state = "exists" if path.exists() else "to write"
            console.print(f"{revision.name}: {path} ({state})")


def _ranges(numbers: tuple[int, ...]) -> str:
    """`(1, 2, 3, 7)` as `1-3, 7`."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
