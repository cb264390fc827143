"""`monitor.jsonl`: every record and alarm of a run, one line each, whole whatever kills the run."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path

from mfgjax.monitor.faults import Alarm, Fault
from mfgjax.monitor.record import Record, read_record
from mfgjax.monitor.sums import MonitorError

NAME = "monitor.jsonl"


class Journal:
    """Appends. Lines of one step are written at once and reach the disk before `write` returns.

    What a killed run left of its last line is cut off when the next one opens the file.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / NAME
        self._file = path.open("ab+")
        whole = self._file.seek(0, os.SEEK_END)
        while whole > 0:
            self._file.seek(whole - 1)
            if self._file.read(1) == b"\n":
                break
            whole -= 1
        self._file.truncate(whole)

    def write(self, record: Record, alarms: list[Alarm]) -> None:
        """A record, and the alarms that it raised."""
        rows = [record.to_json(), *(json.dumps(alarm.to_row()) for alarm in alarms)]
        self._file.write("".join(f"{row}\n" for row in rows).encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


@dataclass
class Run:
    """What a journal holds, by rising step.

    A run that goes on from a checkpoint repeats steps; what it wrote last of a step is what counts.
    """

    records: list[Record] = field(default_factory=list)
    alarms: list[Alarm] = field(default_factory=list)


def read_journal(folder: str | Path) -> Run:
    """Records and alarms of the run in `folder`.

    Raises:
        MonitorError: no journal, a line that is none of its lines, or of another version. A last line
            that is not whole (the run is writing it, or was killed) is left out.
    """
    path = Path(folder)
    path = path / NAME if path.is_dir() else path
    if not path.exists():
        raise MonitorError(
            f"{path}: no such file. A run that a Monitor with this folder watches writes it; did it reach "
            "a sampled step?"
        )
    run = Run()
    lines = path.read_bytes().split(b"\n")[:-1]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if row["kind"] == "record":
                record = read_record(row)
                # Steps from here on are told again, by a run that went on from before them.
                run.records = [r for r in run.records if r.step < record.step]
                run.alarms = [a for a in run.alarms if a.step < record.step]
                run.records.append(record)
            elif row["kind"] == "alarm":
                fault = Fault(row["fault"])
                run.alarms.append(Alarm(row["step"], fault, row["layer"], row["evidence"]))
        except MonitorError as error:
            raise MonitorError(f"{path}, line {number}: {error}") from None
        except (ValueError, KeyError, TypeError) as error:
            raise MonitorError(
                f"{path}, line {number} is no line of a monitor ({type(error).__name__}: {error}): look at "
                "the file, or name another folder"
            ) from None
    return run
