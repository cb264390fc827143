"""What `--dry-run` and `inspect` print: read from configurations, no weights loaded."""

from typing import Any

from rich.table import Table

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.console import results
from mfgjax_extract.revisions import Revision
from mfgjax_extract.router_rows import RouterRow, build_without_weights, router_table
from mfgjax_extract.routers import find_routers, matching
from mfgjax_extract.source import pinned
from mfgjax_extract.sweep_settings import SweepSettings, kinds_for
from mfgjax_extract.trace_file import trace_path


def read_router_table(revision: Revision, trust_remote_code: bool) -> list[RouterRow]:
    """One row per kind of router.

    Raises:
        RoutingError: the model has no router.
    """
    revision = pinned(revision)
    model = build_without_weights(revision.source, revision.hub_revision, trust_remote_code)
    rows = router_table(model)
    if not rows:
        raise RoutingError(f"no router found in {type(model).__name__}")
    return rows


def show_router_table(source: str, rows: list[RouterRow]) -> None:
    """Print what `read_router_table` found."""
    table = Table(title=f"{source} ({rows[0].family})", title_justify="left")
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
    results.print(table, soft_wrap=False)
    if rows[0].settings:
        settings = ", ".join(f"{k} = {v}" for k, v in sorted(rows[0].settings.items()))
        results.print(f"configuration: {settings}")


def plan_of(revisions: list[Revision], settings: SweepSettings) -> dict[str, Any]:
    """The modules that would be tapped in the first checkpoint, and the files for each."""
    first = pinned(revisions[0])
    model = build_without_weights(first.source, first.hub_revision, settings.trust_remote_code)
    found = find_routers(model)
    chosen = {router.path for router in matching(found, settings.layers)}
    routers = [
        {
            "path": router.path,
            "class": type(router.module).__name__,
            "experts": router.num_experts,
            "tapped": router.reached_by_text and router.path in chosen,
        }
        for router in found
    ]
    files = [
        {"revision": revision.name, "path": path, "exists": path.exists()}
        for revision in revisions
        for kind in kinds_for(revision, settings)
        for path in [trace_path(settings.out, revision.label, kind)]
    ]
    return {"routers": routers, "files": files}


def show_plan(plan: dict[str, Any]) -> None:
    """Print what `plan_of` found."""
    for router in plan["routers"]:
        note = "" if router["tapped"] else "  (left out)"
        results.print(f"{router['path']}  {router['class']}  M={router['experts']}{note}")
    for file in plan["files"]:
        state = "exists" if file["exists"] else "to write"
        results.print(f"{file['revision']}: {file['path']} ({state})")


def _ranges(numbers: tuple[int, ...]) -> str:
    """`(1, 2, 3, 7)` as `1-3, 7`."""
    parts: list[list[int]] = []
    for n in sorted(numbers):
        if parts and n == parts[-1][1] + 1:
            parts[-1][1] = n
        else:
            parts.append([n, n])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
