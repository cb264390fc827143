"""Train small models at known congestions and trace them: what `benchmarks.studies.calibration` reads.

    python extract/training/doses.py --out runs/doses
    python -m benchmarks.studies.calibration --runs runs/doses

Each run is `train_olmoe.py` with a leaky price whose gamma is the same from the first step to the last,
at width 64 and two layers so that all of them fit into an hour of one core. A run that is there is left
alone; one that was cut off goes on.
"""

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Annotated

import typer
from balance import Balance
from corpus import held_out_pieces
from train_olmoe import Spacing, train

from mfgjax_extract.revisions import list_revisions
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings

SHAPES = {"16 top-4": (16, 4), "32 top-8": (32, 8)}
DOSES = (0.0, 5.0, 10.0, 20.0, 40.0, 80.0)
HIDDEN, LAYERS, LENGTH, BATCH = 64, 2, 128, 8
LOAD_RATE = 0.01
PIECES = 4
"""Texts of one training window's length that are traced from each held-out document."""


def run_one(out: Path, shape: str, dose: float, seed: int, steps: int) -> None:
    """Train one model, trace its last checkpoint in tokens form, keep the traces and the log."""
    experts, top_k = SHAPES[shape]
    name = f"experts{experts}-dose{dose:g}-seed{seed}"
    folder, work = out / name, out / "work" / name
    if (folder / "run.json").exists():
        return
    train(
        out=work,
        experts=experts,
        top_k=top_k,
        layers=LAYERS,
        hidden=HIDDEN,
        balance=Balance.LEAKY,
        gamma_schedule=f"0:{dose:g}",
        load_rate=LOAD_RATE,
        steps=steps,
        checkpoints=2,
        spacing=Spacing.EVEN,
        batch_size=BATCH,
        length=LENGTH,
        seed=seed,
    )
    texts, documents = held_out_pieces(PIECES, LENGTH)
    last = list_revisions(str(work), [f"step{steps}-*"])
    folder.mkdir(parents=True, exist_ok=True)
    settings = SweepSettings(name, folder, dtype="float32", overwrite=True, trust_remote_code=True)
    sweep(last, texts, settings, Reporter())
    (folder / "documents.json").write_text(json.dumps(documents) + "\n")
    shutil.copy(work / "log.jsonl", folder)
    made = json.loads((work / "run.json").read_text())
    made |= {"shape": shape, "dose": dose, "seed": seed}
    (folder / "run.json").write_text(json.dumps(made, indent=1) + "\n")
    shutil.rmtree(work)


def main(
    out: Annotated[Path, typer.Option(help="Folder for the traces, one folder a run.")],
    seeds: int = 3,
    steps: int = 1000,
    doses: Annotated[str, typer.Option(help="Congestions to set, joined by commas.")] = ",".join(
        f"{dose:g}" for dose in DOSES
    ),
) -> None:
    """Train and trace every shape, dose and seed that is not there yet."""
    wanted = [float(dose) for dose in doses.split(",")]
    for seed, shape, dose in product(range(seeds), SHAPES, wanted):
        run_one(out, shape, dose, seed, steps)
        print(f"{shape}, dose {dose:g}, seed {seed}: there", flush=True)


if __name__ == "__main__":
    typer.run(main)
