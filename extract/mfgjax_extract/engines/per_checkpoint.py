"""What one checkpoint needs of the machine it runs on: `--per-checkpoint gpu=1,cpu=4,memory=40GB`."""

import re
from dataclasses import dataclass

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class PerCheckpoint:
    """Resources of one task.

    Attributes:
        gpu: whole GPUs; the task sees only these.
        cpu: cores, and threads of torch; None leaves both to the engine.
        memory: bytes; None asks for none. Ray and Slurm place tasks by it.
        hours: time limit of a Slurm job.
    """

    gpu: int = 0
    cpu: int | None = None
    memory: int | None = None
    hours: int = 4

    def __str__(self) -> str:
        memory = None if self.memory is None else f"{self.memory / 1e9:g}GB"
        pairs = {"gpu": self.gpu, "cpu": self.cpu, "memory": memory}
        return ",".join(f"{name}={value}" for name, value in pairs.items() if value) or "cpu=1"


def parse_per_checkpoint(text: str) -> PerCheckpoint:
    """Read `gpu=1,cpu=4,memory=40GB,hours=2`; what is not named keeps its default.

    Raises:
        ValueError: an unknown name, or a value that is no amount of it.
    """
    found: dict[str, int] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(gpu|cpu|hours)=(\d+)|(memory)=(\d+(?:\.\d+)?)(MB|GB|TB)", part)
        if match is None or (match[1] in ("cpu", "hours") and int(match[2]) == 0):
            raise ValueError(
                f"--per-checkpoint {part!r}: expected gpu=N, cpu=N, hours=N or memory=N with MB, "
                "GB or TB, as in gpu=1,cpu=4,memory=40GB"
            )
        name = match[1] or match[3]
        if name in found:
            raise ValueError(f"--per-checkpoint names {name} twice")
        found[name] = int(match[2]) if match[1] else round(float(match[4]) * _UNITS[match[5]])
    return PerCheckpoint(**found)


def check_device(per: PerCheckpoint, device: str) -> None:
    """Raise `ValueError` where `--device` and `--per-checkpoint` do not go together."""
    if device.startswith("cuda:"):
        raise ValueError(
            f"--device {device} with --on: each task sees its own GPUs only, say --device cuda"
        )
    if device == "cpu" and per.gpu:
        raise ValueError(f"--per-checkpoint gpu={per.gpu} with --device cpu: say --device cuda")
    if device == "cuda" and not per.gpu:
        raise ValueError("--device cuda with --on: say how many, --per-checkpoint gpu=1")
