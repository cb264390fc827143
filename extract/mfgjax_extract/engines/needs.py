"""What one task needs of the machine it runs on: `gpu=1,cpu=4,memory=40GB`."""

import re
from dataclasses import dataclass

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Needs:
    """Resources of one task.

    Attributes:
        gpu: whole GPUs; the task sees only these.
        cpu: cores, and threads of the task; None leaves both to the engine.
        memory: bytes; None asks for none. Ray and Slurm place tasks by it.
        hours: time limit of a Slurm job.
    """

    gpu: int = 0
    cpu: int | None = None
    memory: int | None = None
    hours: int = 4


def parse_needs(option: str, text: str) -> Needs:
    """Read `gpu=1,cpu=4,memory=40GB,hours=2`; what is not named keeps its default.

    Args:
        option: the name of it on the command line.
        text: its value.

    Raises:
        ValueError: an unknown name, or a value that is no amount of it.
    """
    found: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(gpu|cpu|hours)=(\d+)|(memory)=(\d+(?:\.\d+)?)(MB|GB|TB)", part)
        if match is None or (match[1] in ("cpu", "hours") and int(match[2]) == 0):
            raise ValueError(
                f"{option} {part!r}: expected gpu=N, cpu=N, hours=N or memory=N with MB, GB or TB, "
                "as in gpu=1,cpu=4,memory=40GB"
            )
        name = match[1] or match[3]
        if name in found:
            raise ValueError(f"{option} names {name} twice")
        found[name] = int(match[2]) if match[1] else round(float(match[4]) * _UNITS[match[5]])
    return Needs(**found)
