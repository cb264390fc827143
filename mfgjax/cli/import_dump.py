"""`mfgjax import`: dumps of other tools become traces."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mfgjax.cli.console import results, say, say_written, show, show_json
from mfgjax.cli.options import AsJson, Level, Quiet, out_option


def _existing(source: Path) -> Path:
    if not source.exists():
        raise ValueError(f"{source}: no such file or folder.")
    return source


def import_dump(
    tool: Annotated[
        Literal["moelens", "megatron", "vllm", "sglang"],
        typer.Argument(metavar="TOOL", help="Which one wrote it: moelens, megatron, vllm, sglang."),
    ],
    source: Annotated[
        Path, typer.Argument(metavar="SOURCE", help="What it wrote.", callback=_existing)
    ],
    out: Annotated[Path, out_option("Folder for the trace, or for the table of loads.")],
    experts: Annotated[
        int | None,
        typer.Option("--experts", metavar="M", help="Experts (vllm; megatron without logits)."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", metavar="K", help="Experts per token (sglang counts).")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME", help="Name to store (moelens, megatron)."),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="NAME", help="Checkpoint (moelens, megatron)."),
    ] = None,
    first_step: Annotated[
        int | None, typer.Option("--first-step", metavar="N", help="First to read (megatron).")
    ] = None,
    last_step: Annotated[
        int | None, typer.Option("--last-step", metavar="N", help="Last to read (megatron).")
    ] = None,
    level: Level = 0.95,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Traces from the routing that other tools record; no torch, no code of the dump is run.

    Prompts of MoELens and Megatron with logits become traces for `track`,
    `fit` and `compare`. A range of Megatron's steps is one checkpoint, named
    after its last step: several make a trajectory. vLLM, SGLang, MoELens
    summaries and Megatron without logits record choices only: no quality, so
    no congestion; their entropy and MaxVio are printed, and written as a
    table of loads.

    [bold]Examples[/]

      mfgjax import megatron router-trace/ --last-step 50 --out traces/
      mfgjax import moelens moe_routing_trace.json --model olmoe --out traces/
      mfgjax import sglang recorder_1.pt --top-k 8 --out loads/
      mfgjax import vllm responses.jsonl --experts 64 --out loads/ --json
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.importing import import_dump as run
    from mfgjax.importing import load_table
    from mfgjax.report.section import Table
    from mfgjax.report.tables import tables_json, terminal, write_table

    found = run(
        tool,
        source,
        out,
        experts=experts,
        top_k=top_k,
        model=model,
        revision=revision,
        first_step=first_step,
        last_step=last_step,
    )
    if isinstance(found, Path):
        if as_json:
            show_json({"trace": found, "files": [found]})
        else:
            show(f"{found}: a trace of every token")
        say_written([found])
        say(f"next: mfgjax fit {found}, or mfgjax track {out}")
        return
    table = Table(
        "loads",
        f"Loads of {source}: M = {found.experts}, top-{found.top_k}, {len(found.token_count)} x "
        f"{found.unit}",
        load_table(found, level),
        f"{100 * level:g}% intervals. No router logits in this dump: no quality, and no congestion.",
    )
    files = write_table(table, out)
    if as_json:
        show_json({"trace": None, "tables": tables_json([table]), "files": files})
    else:
        show(terminal(table, results.width))
    say_written(files)
