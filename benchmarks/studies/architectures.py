"""Table 6 on tiny models: `python -m benchmarks.studies.architectures`.

JetMoE, Mixtral, OLMoE and Switch shapes at width 64, random and after minutes of training on the
standard library's sources (extract/training/tiny_architectures.py): a demonstration that such routers come through,
not a measurement of those models. Writes benchmarks/results/architectures.{json,md} and, of the
trained ones, statistics traces of a few kB under benchmarks/results/architectures/.
"""

import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console

from benchmarks.record import RESULTS, environment, keep
from mfgjax.comparison import compare_static
from mfgjax.comparison.compare import StaticComparison
from mfgjax.report.sections.architectures import cross_architecture_table
from mfgjax.report.tables import markdown
from mfgjax.trace import TraceMetadata
from mfgjax.trace.sweep import read_token_traces
from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.one_checkpoint import chosen_routers, versions
from mfgjax_extract.texts import EncodedTexts, hash_texts

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT.parent / "extract" / "training"))  # scripts, not a package

from corpus import held_out_texts, split_corpus  # noqa: E402
from tiny_architectures import ALPHA, SHAPES, Shape, build, train_briefly  # noqa: E402


def encoded_texts(count: int) -> EncodedTexts:
    """Held-out texts of the corpus, one token per byte."""
    pieces = held_out_texts(count, 64)
    return EncodedTexts([list(text.encode()) for text in pieces], hash_texts(pieces), None)


def extract(shape: Shape, model: torch.nn.Module, step: int, texts: EncodedTexts, out: Path):
    """Trace files of the shape's routers, both kinds."""
    metadata = {
        "format": "mfgjax-trace",
        "version": 1,
        "model": f"tiny, {shape.name}",
        "revision": f"step{step}",
        "step": step,
        "tokens_seen": None,
        "aux_loss_coef": ALPHA,
        "dtype": "float32",
        "tokenizer_hash": None,
        "texts_hash": texts.texts_hash,
        "text_count": len(texts.ids),
        "versions": versions(),
        "routing": {},
    }
    routers = [
        r
        for r in chosen_routers(model, shape.layers)
        if r.in_encoder == (shape.stream == "encoder")
    ]
    plan = Plan(out, f"step{step}", ("statistics", "tokens"), metadata)
    return extract_checkpoint(model, routers, texts, plan)


def compare(
    shapes: tuple[Shape, ...],
    steps: int,
    texts: EncodedTexts,
    data: torch.Tensor,
    keep: Path | None,
) -> tuple[list[tuple[StaticComparison, TraceMetadata]], dict[str, list[float]]]:
    """Every shape at random and after `steps` of training; the loss at the start and the end."""
    compared, losses = [], {}
    trained: dict[tuple[str, int], torch.nn.Module] = {}
    for shape in shapes:
        key = (shape.family, shape.experts)
        for step in (0, steps):
            if step == 0:
                model = build(shape.family, shape.experts, shape.top_k).eval()
            elif key not in trained:
                model = build(shape.family, shape.experts, shape.top_k)
                loss = train_briefly(model, data, steps)
                losses[f"{shape.family} {shape.experts}"] = [loss[0], loss[-1]]
                trained[key] = model
            else:
                model = trained[key]
            with tempfile.TemporaryDirectory() as folder:
                paths = extract(shape, model, step, texts, Path(folder))
                for trace in read_token_traces(folder, shape.stream):
                    found = compare_static(trace, types=(), resamples=1000)
                    compared.append((found, trace.metadata))
                for path in paths:
                    if step and keep is not None and ".statistics." in path.name:
                        name = shape.name.replace(", ", "-").replace(" ", "-").lower()
                        shutil.copy(path, keep / f"{name}.statistics.safetensors")
    return compared, losses


def main(
    steps: Annotated[int, typer.Option(help="Training steps of each model.")] = 300,
    texts: Annotated[int, typer.Option(help="Held-out texts of 64 bytes.")] = 60,
) -> None:
    """Train, extract, compare."""
    torch.set_num_threads(1)
    data = torch.frombuffer(bytearray(split_corpus()[0]), dtype=torch.uint8).long()
    models = RESULTS / "architectures"
    models.mkdir(parents=True, exist_ok=True)
    compared, losses = compare(SHAPES, steps, encoded_texts(texts), data, models)
    table = cross_architecture_table(compared)
    title = f"Tiny models (width 64, two MoE layers), random and after {steps} steps on one CPU"
    text = markdown(table.frame, title, table.note)
    on = environment(("jax", "numpy", "scipy", "equinox", "torch"))
    path = RESULTS / "architectures.json"
    keep(path, lambda _: text, environment=on, loss_first_and_last=losses, rows=table.frame)
    Console(width=200).print(text, markup=False, highlight=False)
    Console().print(losses)


if __name__ == "__main__":
    typer.run(main)
