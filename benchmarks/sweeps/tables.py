"""Results of `benchmarks.sweep_engines` as Markdown."""

from benchmarks.record import Cell, measured_on, table
from benchmarks.sweeps.speed import ENGINES


def markdown(record: dict) -> str:
    """The parts of the record that there are."""
    parts = [_engines([record[name] for name in ENGINES if name in record])]
    parts += [_driver(record["driver"])] if "driver" in record else []
    parts += [_kills(record["kills"])] if "kills" in record else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _engines(rows: list[dict]) -> str:
    if not rows:
        return ""
    columns = {
        "engine": "engine",
        "checkpoints": "checkpoints",
        "start s": "{start_seconds:.0f}",
        "wall / ideal": "{wall_over_ideal:.2f}",
        "(wall - start) / ideal": "{wall_less_start_over_ideal:.2f}",
        "files that differ from serial": lambda row: (
            f"{row['files_that_differ']} of {row['files']}"
        ),
        "load average": "{load_average:.0f}",
    }
    return f"{table(rows, columns)}\n\n{measured_on(rows[0])}"


def _driver(row: dict) -> str:
    torch = "with" if row["torch_imported_by_a_finished_sweep"] else "without"
    return "\n".join(
        [
            "* CPU of the driver per checkpoint: "
            f"{row['driver_cpu_ms_per_checkpoint']:.2f} ms; of a node that answers the check of the folder: "
            f"{row['node_check_cpu_ms']:.1f} ms. Digest of a folder's weights: "
            f"{row['digest_gb_per_cpu_second']:.1f} GB per CPU second.",
            f"* What a task returns: {row['outcome_pickled_bytes']} bytes. Files per checkpoint: "
            f"{row['files_per_checkpoint']} traces and {row['notes_per_checkpoint']} notes.",
            f"* A finished sweep of {row['checkpoints']} checkpoints run again: "
            f"{row['cpu_seconds_of_a_finished_sweep']:.1f} s of CPU, "
            f"{row['wall_seconds_of_a_finished_sweep']:.1f} s at a load average of "
            f"{row['environment']['load_average']:.0f}, {torch} torch.",
        ]
    )


def _kills(record: dict) -> str:
    cells: dict[tuple[str, str], list[dict]] = {}
    for row in record["rows"]:
        cells.setdefault((row["on"], row["victim"]), []).append(row)
    rows = [
        {"on": f"`--on {on}`", "victim": victim, "of": rows}
        for (on, victim), rows in sorted(cells.items())
    ]

    def count(name: str) -> Cell:
        return lambda row: sum(bool(one[name]) for one in row["of"])

    columns = {
        "": "on",
        "killed": "victim",
        "kills": lambda row: len(row["of"]),
        "at, of the run": lambda row: ", ".join(
            f"{one:.0%}" for one in sorted(one["of_span"] for one in row["of"])
        ),
        "sweeps whose files differ in the end": count("differ"),
        "half-written files": count("half_written"),
        "begun again, most by one kill": lambda row: max(one["begun_again"] for one in row["of"]),
        "command run again": count("commands_again"),
    }
    return f"{table(rows, columns)}\n\n{measured_on(record)}"
