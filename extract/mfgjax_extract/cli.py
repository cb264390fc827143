"""`mfgjax-extract MODEL ...`, `mfgjax-extract inspect MODEL`; `slim` is in `slim_command.py`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import typer
from typer.core import TyperGroup

from mfgjax_extract import __version__
from mfgjax_extract.console import (
    FAILED,
    explained,
    messages,
    replace_unprintable,
    show_json,
    silence,
)
from mfgjax_extract.slim_command import slim

AsJson = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="No progress, no messages; errors only.", callback=silence),
]


class _ExtractByDefault(TyperGroup):
    """Read `mfgjax-extract MODEL ...` as `mfgjax-extract extract MODEL ...`."""

    def parse_args(self, ctx, args):
        own = {name for param in self.get_params(ctx) for name in param.opts}
        if args and args[0] not in self.commands and args[0] not in own:
            args = ["extract", *args]
        return super().parse_args(ctx, args)

    def main(self, *args, **kwargs):
        replace_unprintable()
        return super().main(*args, **kwargs)

    def invoke(self, ctx):
        with explained():
            return super().invoke(ctx)


app = typer.Typer(
    name="mfgjax-extract",
    cls=_ExtractByDefault,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mfgjax-extract {__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """Raw router logits and the experts really chosen, from any transformers MoE model.

    [bold]Start here[/]

      mfgjax-extract inspect MODEL         its routers, without its weights
      mfgjax-extract MODEL --texts texts.jsonl --out traces/ --dry-run
      mfgjax-extract MODEL --texts texts.jsonl --out traces/
      mfgjax-extract slim --help           narrower experts, in stages

    [bold]Exit codes[/]

      0    done
      1    failed: no network, out of memory, routing that cannot be read
      2    the command line or the input is wrong
      130  stopped by Ctrl-C; the same command goes on where it stopped
      141  the reader of the output went away (mfgjax-extract ... | head)

    [bold]Shell completion[/]

      mfgjax-extract --install-completion
    """


@app.command()
def extract(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="Hub id, checkpoint folder, or folder of checkpoint folders."
        ),
    ],
    texts: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Texts: .jsonl, .txt (one per line) or a folder."),
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Folder for the traces.")],
    revisions: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME,NAME", help="Revision names or globs; or repeat the option."),
    ] = None,
    revisions_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="One revision or glob per line.")
    ] = None,
    tokens: Annotated[
        str,
        typer.Option(metavar="NAME,NAME", help="Globs of revisions that also get the tokens form."),
    ] = "*",
    statistics_only: Annotated[
        bool, typer.Option("--statistics-only", help="No tokens form: per-text statistics only.")
    ] = False,
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="Key of the text in .jsonl objects.")
    ] = "text",
    dtype: Annotated[
        str, typer.Option(metavar="NAME", help="float32, bfloat16, float16, auto.")
    ] = "auto",
    device: Annotated[
        str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:N, mps, or auto (spread).")
    ] = "cpu",
    batch_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most tokens per forward.")
    ] = 4096,
    max_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Most tokens kept of each text.")
    ] = 2048,
    logit_dtype: Annotated[
        Literal["float16", "float32"], typer.Option(help="Stored type of token logits.")
    ] = "float16",
    layers: Annotated[
        str, typer.Option(metavar="REGEX", help="Only routers whose path this regex finds.")
    ] = "",
    choice_blocks: Annotated[
        int,
        typer.Option(metavar="N", min=0, help="Blocks of texts with bounds on the price; 0: none."),
    ] = 8,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Model in the traces; default: hub id or folder name."),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace existing traces.")
    ] = False,
    delete_downloads: Annotated[
        bool,
        typer.Option("--delete-downloads", help="Delete each downloaded revision after use."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option("--verify", help="Read traces that are done, and check that they are whole."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Load no weights: list what would be tapped and written."),
    ] = False,
    on: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="One task per checkpoint on local:N (processes), ray, ray://HOST:PORT or slurm[:N].",
        ),
    ] = None,
    per_checkpoint: Annotated[
        str,
        typer.Option(
            metavar="gpu=1,cpu=4,memory=40GB",
            help="With --on: what one task needs; hours=N bounds a Slurm job (4).",
        ),
    ] = "",
    retry: Annotated[
        str,
        typer.Option(
            metavar="NAME,NAME",
            help="With --on: Python errors to try again 3 times, as dead workers and nodes are.",
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Extract traces of one or many checkpoints. Resumes after a kill, skips what is done.

    [bold]Examples[/]

      mfgjax-extract runs/olmoe --texts texts.jsonl --out traces/
      mfgjax-extract allenai/OLMoE-1B-7B-0924 --revisions 'step*000-*'
        --texts texts.jsonl --out traces/ --tokens main --device cuda
      mfgjax-extract allenai/OLMoE-1B-7B-0924 --revisions-file steps.txt
        --texts texts.jsonl --out traces/ --on ray --per-checkpoint gpu=1,cpu=4 --device cuda
    """
    # Imported late, so that --help does not wait for torch.
    import numpy as np

    from mfgjax_extract.progress import SweepProgress
    from mfgjax_extract.revisions import list_revisions
    from mfgjax_extract.sweep import sweep
    from mfgjax_extract.sweep_settings import SweepSettings
    from mfgjax_extract.texts import read_texts

    chosen = list_revisions(model, _patterns(revisions, revisions_file))
    settings = SweepSettings(
        name=name or (Path(model).resolve().name if Path(model).is_dir() else model),
        out=out,
        tokens=() if statistics_only else tuple(tokens.split(",")),
        dtype=dtype,
        device=device,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        logit_dtype={"float16": np.float16, "float32": np.float32}[logit_dtype],
        layers=layers,
        choice_blocks=choice_blocks,
        trust_remote_code=trust_remote_code,
        overwrite=overwrite,
        verify=verify,
    )
    if dry_run:
        from mfgjax_extract.preview import plan_of, show_plan

        plan = plan_of(chosen, settings)
        show_json(plan) if as_json else show_plan(plan)
        return
    if on is not None:
        from mfgjax_extract.spread_command import spread_over

        named = [name for name in retry.split(",") if name]
        found = read_texts(texts, text_field)
        failed = spread_over(
            on, per_checkpoint, chosen, found, settings, delete_downloads, named, as_json
        )
        if failed:
            raise typer.Exit(FAILED)
        return
    if per_checkpoint or retry:
        raise ValueError(
            "--per-checkpoint and --retry say something about --on, which is not there"
        )
    with SweepProgress(messages, len(chosen)) as progress:
        failed = sweep(chosen, read_texts(texts, text_field), settings, progress, delete_downloads)
    if as_json:
        show_json({"out": out, "checkpoints": progress.checkpoints})
    if failed:
        raise typer.Exit(FAILED)


@app.command()
def inspect(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or checkpoint folder.")],
    revision: Annotated[str | None, typer.Option(metavar="NAME", help="Hub revision.")] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Show the router table of a model. Reads its configuration only, no weights.

    [bold]Example[/]

      mfgjax-extract inspect Qwen/Qwen1.5-MoE-A2.7B
    """
    # Imported late, so that --help does not wait for torch.
    from mfgjax_extract.preview import read_router_table, show_router_table
    from mfgjax_extract.revisions import list_revisions

    chosen = list_revisions(model, [revision] if revision else [])[0]
    rows = read_router_table(chosen, trust_remote_code)
    if as_json:
        show_json({"model": model, "routers": [dataclasses.asdict(row) for row in rows]})
    else:
        show_router_table(chosen.source, rows)


app.command()(slim)


def _patterns(revisions: list[str] | None, revisions_file: Path | None) -> list[str]:
    listed = [p for entry in revisions or [] for p in entry.split(",")]
    if revisions_file is not None:
        from mfgjax_extract.texts import read_utf8

        listed += read_utf8(revisions_file).split("\n")
    patterns = [p.strip() for p in listed]
    return [p for p in patterns if p and not p.startswith("#")]
