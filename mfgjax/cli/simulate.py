"""`mfgjax simulate`: traces of a training run whose congestion is known."""

from pathlib import Path
from typing import Annotated

import typer

from mfgjax.cli.console import say, show, show_json
from mfgjax.cli.options import AsJson, Quiet, Seed, listed, number_option, out_option
from mfgjax.cli.progress import progress_over


def _count(name: str, help: str, least: int = 1):
    return typer.Option(name, metavar="N", min=least, help=help)


def _size(name: str, help: str):
    return number_option(name, "X", help, least=0)


def simulate(
    out: Annotated[Path, out_option("Folder for the traces and truth.json.")],
    congestion: Annotated[
        str,
        typer.Option("--congestion", metavar="X,X", help="Of every layer, one per checkpoint."),
    ] = "0,0,5,12,15,14,10,8",
    steps: Annotated[
        str | None,
        typer.Option(
            "--steps", metavar="N,N", help="Training steps (default: 0, 100, then doubling)."
        ),
    ] = None,
    layers: Annotated[int, _count("--layers", "MoE layers.")] = 2,
    experts: Annotated[int, _count("--experts", "Experts per layer, M.", least=2)] = 16,
    top_k: Annotated[int, _count("--top-k", "Experts per token, K.")] = 4,
    texts: Annotated[int, _count("--texts", "Texts.", least=2)] = 100,
    tokens: Annotated[int, _count("--tokens", "Tokens in each text.")] = 200,
    quality_noise: Annotated[
        float, _size("--quality-noise", "Standard error of the mean quality, sigma_q.")
    ] = 0.02,
    dispersion: Annotated[
        float, _size("--dispersion", "Standard deviation of logits over the tokens of a text.")
    ] = 1.0,
    load_spread: Annotated[
        float, _size("--load-spread", "Standard deviation of the logarithm of the load.")
    ] = 0.2,
    seed: Seed = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Traces of a training run with known truth, for `track` and `fit` to find again.

    At every checkpoint the load is an exact equilibrium at the congestion
    that you give; texts sample it. FOLDER/truth.json says the truth:
    congestion, quality and load of every layer.

    [bold]Examples[/]

      mfgjax simulate --out known/ && mfgjax track known/
      mfgjax simulate --out small/ --congestion 0,20,10 --experts 64 --top-k 8
      mfgjax simulate --out paper/ --texts 50 --tokens 14 --json | jq .settings
    """
    path = listed("--congestion", congestion, float, "0,12,8")
    wanted = steps or ",".join(str(100 * 2 ** (i - 1) if i else 0) for i in range(len(path)))
    # Imported late, so that --help does not wait for jax.
    from mfgjax.simulate.sweep import TRUTH, SimulatedRun, simulate_sweep

    run = SimulatedRun(
        congestion=path,
        steps=listed("--steps", wanted, int, "0,100,200"),
        layers=layers,
        experts=experts,
        top_k=top_k,
        texts=texts,
        tokens=tokens,
        quality_noise=quality_noise,
        dispersion=dispersion,
        load_spread=load_spread,
        seed=seed,
    )
    with progress_over("checkpoints") as progress:
        truth = simulate_sweep(out, run, progress=progress)
    if as_json:
        show_json(truth | {"files": [out / c["trace"] for c in truth["checkpoints"]]})
    else:
        show(f"{len(path)} checkpoints of {texts} texts in {out}, the truth in {out / TRUTH}")
    say(f"next: mfgjax track {out}")
