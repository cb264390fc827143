"""`mfgjax bifurcation`: the router bifurcation model as figures and NetCDF files."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import explained, messages, results


def bifurcation(
    out: Annotated[Path, typer.Option(help="Folder for figures (PNG, SVG) and data (NetCDF).")],
    experiments: Annotated[
        bool, typer.Option(help="Also train the small layers (needs flax and scikit-learn).")
    ] = False,
    seeds: Annotated[int, typer.Option(help="Runs per strength of each experiment.", min=1)] = 6,
) -> None:
    """Pitchfork, cusp, hysteresis, M-expert collapse and potential of a router fed by its own load.

    [bold]Examples[/]

      mfgjax bifurcation --out out/bifurcation
      mfgjax bifurcation --out out/bifurcation --experiments --seeds 10
    """
    with explained():
        # Imported late, so that --help does not wait for jax.
        import jax

        from mfgjax.bifurcation.atlas import draw_atlas, draw_experiments, threshold_table

        with jax.enable_x64(True):
            results.print(threshold_table())
            paths = draw_atlas(out)
            if experiments:
                paths += draw_experiments(out, seeds=seeds)
        for path in paths:
            messages.print(f"wrote {path}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    typer.run(bifurcation)
