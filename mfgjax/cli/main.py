"""`mfgjax`: one command, one subcommand per file of this folder."""

import os
from pathlib import Path
from typing import Annotated

import platformdirs
import typer
from typer.core import TyperGroup

import mfgjax
from mfgjax.cli.analyze import analyze
from mfgjax.cli.architectures import architectures
from mfgjax.cli.bifurcation import bifurcation
from mfgjax.cli.compare import compare
from mfgjax.cli.decomposition import decomposition
from mfgjax.cli.demo import demo
from mfgjax.cli.doctor import doctor
from mfgjax.cli.failures import explained
from mfgjax.cli.fit import fit
from mfgjax.cli.import_dump import import_dump
from mfgjax.cli.lab import app as lab_app
from mfgjax.cli.robustness import robustness
from mfgjax.cli.simulate import simulate
from mfgjax.cli.track import track
from mfgjax.cli.watch import watch


class _Commands(TyperGroup):
    """Subcommands whose errors all end the same way."""

    def invoke(self, ctx):
        with explained():
            return super().invoke(ctx)


app = typer.Typer(
    name="mfgjax",
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)
PANELS = {
    "Read a router": (demo, track, analyze, compare, fit),
    "One table of the paper": (robustness, decomposition, architectures),
    "While it trains": (watch,),
    "Theory, and this machine": (simulate, bifurcation, doctor),
}
for panel, commands in PANELS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.command("import", rich_help_panel="Read a router")(import_dump)
app.add_typer(lab_app, rich_help_panel="While it trains")


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"mfgjax {mfgjax.__version__}")
        raise typer.Exit()


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True),
    ] = False,
) -> None:
    """The router of a Mixture-of-Experts model, read as a congestion game.

    [bold]Start here[/]

      mfgjax demo               what it does, on bundled training runs
      mfgjax track traces/      your own traces, written by mfgjax-extract
      mfgjax import TOOL DUMP   traces from what vllm, megatron, ... recorded
      mfgjax compare A/ B/      what differs between two checkpoints or runs
      mfgjax watch run/         a training run that a monitor watches
      mfgjax lab run --out lab/ small models trained under balancing rules
      mfgjax COMMAND --help     every command has examples

    Results go to standard output (--json: as JSON), messages and progress to
    standard error. Files are written whole or not at all.

    [bold]Exit codes[/]

      0    done
      1    failed, or an answer is not certified
      2    the command line or the input is wrong
      130  stopped by Ctrl-C
      141  the reader of the output went away (mfgjax ... | head)

    [bold]Shell completion[/]

      mfgjax --install-completion
    """
    keep_compiled()


def keep_compiled() -> None:
    """Point jax, before it is imported, to a folder of the user's cache for what it has compiled: the second
    `mfgjax track` starts in a third of the first one's time.

    Settings of the user's own win; JAX_ENABLE_COMPILATION_CACHE=0 turns it off.
    """
    folder = Path(platformdirs.user_cache_dir("mfgjax")) / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written to: compile each time
        return
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(folder))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
