"""`mfgjax`: one command, one subcommand per file of this folder."""

import typer

from mfgjax.cli.analyze import analyze
from mfgjax.cli.architectures import architectures
from mfgjax.cli.bifurcation import bifurcation
from mfgjax.cli.demo import demo
from mfgjax.cli.track import track

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="The router of a Mixture-of-Experts model, read as a congestion game.",
)
app.command()(track)
app.command()(demo)
app.command()(bifurcation)
app.command()(analyze)
app.command()(architectures)


@app.callback()
def _root() -> None:
    """The router of a Mixture-of-Experts model, read as a congestion game."""
