"""Keep the results of a lab: `python -m benchmarks.studies.lab_results --results runs/grid/results.json`.

    mfgjax lab run --preset grid --out runs/grid

What `mfgjax lab run` measured, without the parts that only figures need, goes to
benchmarks/results/lab_<preset>.{json,md}, from which `python -m benchmarks.pages` writes docs/lab.md.
"""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from mfgjax.lab.report import markdown, read_results
from mfgjax.report.files import plain

FOLDER = Path(__file__).parents[1] / "results"
LEFT_OUT = ("loss_every_tenth_step", "masking")


def smaller(run: dict[str, Any]) -> dict[str, Any]:
    """A run without its long lists, numbers to five figures."""

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.5g}")
        if isinstance(value, list):
            return [short(item) for item in value]
        if isinstance(value, dict):
            return {name: short(item) for name, item in value.items()}
        return value

    return {name: short(value) for name, value in run.items() if name not in LEFT_OUT}


def main(
    results: Annotated[
        Path | None, typer.Option(help="results.json of a lab, or its folder.")
    ] = None,
    name: Annotated[str, typer.Option(help="Of the preset.")] = "grid",
) -> None:
    """Keep the results and write the page; without --results the page is made again from what is kept."""
    path = FOLDER / f"lab_{name}.json"
    if results is not None:
        new = read_results(results)
        new["runs"] = [smaller(run) for run in new["runs"]]
        path.write_text(json.dumps(plain(new), separators=(",", ":")) + "\n")
    found = read_results(path)
    text = markdown(found, None).replace("## ", "### ")  # below a heading of the page
    path.with_suffix(".md").write_text(text)
    Console(width=200).print(text, markup=False)


if __name__ == "__main__":
    typer.run(main)
