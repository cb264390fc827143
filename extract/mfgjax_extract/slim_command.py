"""`mfgjax-extract slim MODEL`: a smaller model in stages, and its routing all the way."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from mfgjax_extract.console import messages, show_json


def slim(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Hub id or checkpoint folder.")],
    width: Annotated[int, typer.Option(metavar="N", help="Neurons per expert at the end.")],
    texts: Annotated[Path, typer.Option(metavar="FILE", help="Texts to score and train on.")],
    out: Annotated[
        Path, typer.Option(metavar="FOLDER", help="Folder of the run; resumed if there.")
    ],
    tokens: Annotated[
        float, typer.Option(metavar="N", help="Training tokens, all stages together (1.5e6).")
    ] = 1e6,
    stages: Annotated[int, typer.Option(metavar="N", min=1, help="Times to cut and distil.")] = 2,
    head_groups: Annotated[
        int | None,
        typer.Option(metavar="N", help="Attention groups (key-value heads) kept; default: all."),
    ] = None,
    teacher: Annotated[
        str | None, typer.Option(metavar="MODEL", help="To learn from; default: MODEL itself.")
    ] = None,
    held_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Texts for losses and traces; default: every tenth."),
    ] = None,
    text_field: Annotated[
        str, typer.Option(metavar="NAME", help="Key of the text in .jsonl objects.")
    ] = "text",
    score: Annotated[
        Literal["taylor", "fisher", "magnitude", "activation", "random"],
        typer.Option(help="What says how much a neuron matters."),
    ] = "taylor",
    score_texts: Annotated[int, typer.Option(metavar="N", min=1, help="Windows to score on.")] = 64,
    lr: Annotated[float, typer.Option(metavar="X", help="Peak; a fifth of the original's.")] = 1e-4,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Windows per step.")] = 8,
    length: Annotated[int, typer.Option(metavar="N", min=2, help="Tokens per window.")] = 128,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the batches.")] = 0,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="To train and save in.")
    ] = "float32",
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda, cuda:1, mps.")] = "cpu",
    trust_remote_code: Annotated[
        bool,
        typer.Option("--trust-remote-code", help="Run Python code that comes with the checkpoint."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")
    ] = False,
) -> None:
    """Slim the experts of a model in stages (SlimMoE), and extract its routing at each.

    No expert is dropped: every one keeps its most useful neurons, and the student learns
    from its teacher's logits. Every model loads with stock from_pretrained.

    [bold]Example[/]

      mfgjax-extract slim allenai/OLMoE-1B-7B-0924 --width 512 --stages 2 --tokens 1e8
        --texts texts.jsonl --out runs/slim/ --device cuda --dtype bfloat16
      mfgjax track runs/slim/traces
    """
    # Imported late, so that --help does not wait for torch.
    from mfgjax_extract.progress import SlimProgress
    from mfgjax_extract.revisions import list_revisions
    from mfgjax_extract.slimming.stages import SlimSettings, run_slimming
    from mfgjax_extract.texts import read_texts

    settings = SlimSettings(
        width=width,
        head_groups=head_groups,
        stages=stages,
        tokens=tokens,
        score=score,
        score_texts=score_texts,
        batch=batch,
        length=length,
        peak_lr=lr,
        seed=seed,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )

    def one(name: str):
        found = list_revisions(name, [])
        if len(found) != 1:
            raise ValueError(f"{name}: {len(found)} checkpoints; name the folder of one")
        return found[0]

    with SlimProgress(messages, stages) as progress:
        found = run_slimming(
            one(model),
            read_texts(texts, text_field),
            settings,
            out,
            teacher=None if teacher is None else one(teacher),
            held_out=None if held_out is None else read_texts(held_out, text_field),
            reporter=progress,
        )
    peak = found["peak_memory_bytes"] / 1e9
    messages.print(f"peak memory {peak:.1f} GB; next: mfgjax track {out / 'traces'}")
    if as_json:
        show_json(found)
