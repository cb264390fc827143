"""`mfgjax-extract MODEL ...` and `mfgjax-extract inspect MODEL`."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.markup import escape
from typer.core import TyperGroup

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.preview import plan_on_terminal, show_router_table
from mfgjax_extract.progress import SweepProgress
from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.sweep import SweepSettings, sweep
from mfgjax_extract.texts import read_texts
from mfgjax_extract.trace_file import TraceMismatch

console = Console(stderr=True)


class _ExtractByDefault(TyperGroup):
    """Read `mfgjax-extract MODEL ...` as `mfgjax-extract extract MODEL ...`."""

    def parse_args(self, ctx, args):
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["extract", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=_ExtractByDefault, no_args_is_help=True, add_completion=False)


@app.callback()
def _main() -> None:
    """Raw router logits and the experts really chosen, from any transformers MoE model."""


@app.command()
def extract(
    model: Annotated[
        str, typer.Argument(help="Hub id, checkpoint folder, or folder of checkpoint folders.")
    ],
    texts: Annotated[Path, typer.Option(help="Texts: .jsonl, .txt (one per line) or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the traces.")],
    revisions: Annotated[
        list[str] | None, typer.Option(help="Revision name or glob; repeat, or separate by commas.")
    ] = None,
    revisions_file: Annotated[
        Path | None, typer.Option(help="File with one revision or glob per line.")
    ] = None,
    tokens: Annotated[
        str, typer.Option(help="Globs of revisions that also get the tokens form, comma-separated.")
    ] = "*",
    statistics_only: Annotated[
        bool, typer.Option(help="Write no tokens form: per-text statistics only.")
    ] = False,
    text_field: Annotated[str, typer.Option(help="Key of the text in .jsonl objects.")] = "text",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16, auto.")] = "auto",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:N, mps, or auto (spread).")] = "cpu",
    batch_tokens: Annotated[int, typer.Option(min=1, help="Most tokens per forward.")] = 4096,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens kept of each text.")] = 2048,
    logit_dtype: Annotated[str, typer.Option(help="Stored: float16 or float32.")] = "float16",
    layers: Annotated[str, typer.Option(help="Only routers whose path this regex finds.")] = "",
    name: Annotated[
        str | None, typer.Option(help="Model name in the traces; default: hub id or folder name.")
    ] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run Python code that comes with the checkpoint.")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="Replace existing traces.")] = False,
    delete_downloads: Annotated[
        bool, typer.Option(help="Delete each downloaded revision from the hub cache after use.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option(help="Load no weights: list what would be tapped and written.")
    ] = False,
) -> None:
    """Extract traces of one or many checkpoints. Resumes after a kill, skips what is done."""
    try:
        chosen = list_revisions(model, _patterns(revisions, revisions_file))
        stored = {"float16": np.float16, "float32": np.float32}
        if logit_dtype not in stored:
            raise ValueError(f"--logit-dtype {logit_dtype}: float16 or float32")
        settings = SweepSettings(
            name=name or (Path(model).resolve().name if Path(model).is_dir() else model),
            out=out,
            tokens=() if statistics_only else tuple(tokens.split(",")),
            dtype=dtype,
            device=device,
            batch_tokens=batch_tokens,
            max_tokens=max_tokens,
            logit_dtype=stored[logit_dtype],
            layers=layers,
            trust_remote_code=trust_remote_code,
            overwrite=overwrite,
        )
        if dry_run:
            plan_on_terminal(chosen, settings)
            return
        with SweepProgress(console, len(chosen)) as progress:
            sweep(chosen, read_texts(texts, text_field), settings, progress, delete_downloads)
    except (ValueError, RoutingError, TraceMismatch, OSError) as error:
        _fail(error)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(help="Hub id or checkpoint folder.")],
    revision: Annotated[str | None, typer.Option(help="Hub revision.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option(help="Run Python code that comes with the checkpoint.")
    ] = False,
) -> None:
    """Show the router table of a model. Reads its configuration only, no weights."""
    try:
        chosen = list_revisions(model, [revision] if revision else [])[0]
        show_router_table(chosen, trust_remote_code)
    except (ValueError, RoutingError, OSError) as error:
        _fail(error)


def _fail(error: Exception) -> None:
    console.print(f"[red]error:[/red] {escape(str(error))}", highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def _patterns(revisions: list[str] | None, revisions_file: Path | None) -> list[str]:
    listed = [p for entry in revisions or [] for p in entry.split(",")]
    if revisions_file is not None:
        listed += revisions_file.read_text().split("\n")
    patterns = [p.strip() for p in listed]
    return [p for p in patterns if p and not p.startswith("#")]
