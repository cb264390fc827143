"""`mfgjax lab`: train small models under different balancing rules, and tell what moves what."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from mfgjax.cli.console import messages, say, say_written, show, show_json
from mfgjax.cli.failures import FAILED
from mfgjax.cli.options import AsJson, Quiet, out_option

app = typer.Typer(name="lab", no_args_is_help=True, rich_markup_mode="rich")


@app.callback()
def _lab() -> None:
    """Train small MoE models under different balancing rules, and see which moves what.

    The preset `quick` takes minutes of two cores, `full` half an hour.

    [bold]Examples[/]

      mfgjax lab run --preset quick --out lab/
      mfgjax lab report lab/
    """


@app.command("run")
def run(
    out: Annotated[Path, out_option("Folder for states, traces and results.json.")],
    preset: Annotated[
        str,
        typer.Option("--preset", metavar="NAME", help="smoke, quick, grid, full, or a JSON file."),
    ] = "quick",
    arm: Annotated[
        list[str] | None,
        typer.Option(
            "--arm", metavar="NAME", help="Some arms of the preset, or a rule's; else all."
        ),
    ] = None,
    rule: Annotated[
        list[Path] | None,
        typer.Option("--rule", metavar="FILE", help="A rule of your own, as one more arm."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option("--seeds", metavar="N", min=1, help="Other than the preset's.")
    ] = None,
    at_once: Annotated[
        int,
        typer.Option(
            "--at-once",
            metavar="N",
            min=0,
            help="Runs trained together; 0: the seeds of an arm on a CPU and with --on, else what fits.",
        ),
    ] = 0,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="WHERE",
            help="One task per arm on local:N (processes), ray, ray://HOST:PORT or slurm[:N].",
        ),
    ] = None,
    per_task: Annotated[
        str,
        typer.Option(
            "--per-task",
            metavar="gpu=1,cpu=4,memory=8GB",
            help="With --on: what one task needs; hours=N bounds a Slurm job (4).",
        ),
    ] = "",
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Train, trace and measure every arm of a preset. A run that was cut off goes on.

    A folder takes further arms, rules and seeds: what it has is not run again.
    Text comes from Python's own library; nothing is downloaded. Each run's
    checkpoints are traces that `mfgjax track` reads.

    [bold]Examples[/]

      mfgjax lab run --preset quick --out lab/
      mfgjax lab run --preset quick --rule my_rule.py --out lab/
      mfgjax lab run --preset grid --arm none --arm sign --out grid/
      mfgjax lab run --preset full --seeds 3 --out full/ --json | jq .runs
      mfgjax lab run --preset full --out full/ --on local:2
      mfgjax lab run --preset full --out full/ --on ray --per-task gpu=1,cpu=4
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.lab.preset import Arm, arms_named, read_preset
    from mfgjax.lab.rule import blame, read_rule
    from mfgjax.lab.rules import RULES
    from mfgjax.lab.run import run_lab

    rules = dict(RULES)
    wanted = read_preset(preset, RULES)
    if arm:
        wanted = dataclasses.replace(wanted, arms=arms_named(wanted, arm))
    for path in rule or []:
        if path.stem in rules:
            raise ValueError(f"{path}: there is a rule {path.stem!r} already. Rename the file.")
        rules[path.stem] = read_rule(path)
        # first, so that a fault in it shows at once
        wanted = dataclasses.replace(wanted, arms=(Arm(path.stem, path.stem), *wanted.arms))
    if seeds is not None:
        wanted = dataclasses.replace(wanted, seeds=seeds)
    failed = []
    if on is not None:
        results, failed = _spread(on, per_task, wanted, out, rules, rule or [], at_once)
    elif per_task:
        raise ValueError("--per-task says what a task of --on needs: add --on, as in --on local:2")
    else:
        with _progress(len(wanted.arms) * wanted.seeds) as (trained, measured):
            try:
                results = run_lab(
                    wanted, out, rules=rules, at_once=at_once, progress=trained, measured=measured
                )
            except Exception as error:
                for path in rule or []:
                    if (told := blame(error, path)) is not None:
                        raise ValueError(told) from None
                raise
    if as_json:
        show_json(results)
    else:
        show(f"{len(results['runs'])} runs of {len(wanted.arms)} arms in {out / 'results.json'}")
    if failed:
        raise typer.Exit(FAILED)
    say(f"next: mfgjax lab report {out}")


def _spread(on: str, per_task: str, preset, out: Path, rules, files: list[Path], at_once: int):
    """Results, and the tasks that failed, of a lab on what `--on` names."""
    from mfgjax.engines import check_on, engine_for
    from mfgjax.engines.needs import parse_needs
    from mfgjax.engines.progress import TaskProgress
    from mfgjax.lab.spread import spread_lab

    check_on(on)
    needs = parse_needs("--per-task", per_task)
    # Processes here keep XLA's own number, as a serial run does: sums are split the same way.
    threads = needs.cpu or (None if on.startswith("local:") else 1)
    with TaskProgress(messages, "tasks") as progress:
        return spread_lab(
            preset,
            out,
            lambda notes: engine_for(on, needs, notes),
            progress,
            rules=rules,
            rule_files=files,
            at_once=at_once,
            threads=threads,
        )


@app.command("report")
def report(
    lab: Annotated[Path, typer.Argument(metavar="LAB", help="Folder of `mfgjax lab run`.")],
    out: Annotated[
        Path | None, out_option("Folder for the page and figures (default: the lab's own).")
    ] = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Write the page of a lab: losses and balance with intervals, published signs, dose responses.

    report.html opens offline; the tables are printed too.

    [bold]Examples[/]

      mfgjax lab report lab/
      mfgjax lab report lab/ --json | jq '.signs[] | .verdict'
    """
    from mfgjax.lab.report import markdown, read_results, write_report
    from mfgjax.lab.signs import published_signs

    results = read_results(lab)
    folder = out or (lab if lab.is_dir() else lab.parent)
    files = write_report(results, folder)
    if as_json:
        signs = [sign._asdict() for sign in published_signs(results)]
        show_json({"signs": signs, "files": files})
    else:
        show(markdown(results, figures=None))
    say_written(files)


@contextmanager
def _progress(runs: int) -> Iterator:
    """Two functions to tell: of training, with loss and balance, and of runs measured."""
    columns = [TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn()]
    shown = messages.is_interactive and not messages.quiet
    with Progress(*columns, console=messages, disable=not shown, transient=True) as bar:
        training = bar.add_task("training", total=None)
        measuring = bar.add_task("measured", total=runs)

        def trained(told) -> None:
            text = f"{told.rule} step {told.step}: loss {told.loss:.3f}, MaxVio {told.max_violation:.2f}"
            bar.update(training, completed=told.done, total=told.total, description=text)

        def measured(arm: str, seed: int) -> None:
            bar.update(measuring, advance=1, description=f"measured {arm}, seed {seed}")

        yield trained, measured
