"""What a slimming run is told, and how wide its experts are after each stage."""

from dataclasses import dataclass
from typing import Protocol

import torch

from mfgjax_extract.slimming.plan import usable_width


@dataclass(frozen=True)
class SlimSettings:
    """What a run is, apart from its models and texts.

    Attributes:
        width: neurons per expert at the end; rounded up to what grouped kernels take.
        head_groups: attention groups kept per layer at the end, None for all.
        stages: times to cut and distil.
        tokens: of training, in all stages together.
        score: one of `SCORES`.
        score_texts: windows that scores are taken from.
        batch: windows per step.
        length: tokens per window.
        peak_lr: of each stage.
        teacher_logits: tokens that the teacher's prediction is kept of, beside the rest.
        seed: of batches.
        dtype: "float32", "bfloat16" or "float16".
        device: to run on.
        trust_remote_code: run code that comes with the checkpoint.
    """

    width: int
    head_groups: int | None = None
    stages: int = 2
    tokens: float = 1e6
    score: str = "taylor"
    score_texts: int = 64
    batch: int = 8
    length: int = 128
    peak_lr: float = 1e-4
    teacher_logits: int = 8
    seed: int = 0
    dtype: str = "float32"
    device: str = "cpu"
    trust_remote_code: bool = False

    @property
    def steps(self) -> int:
        """Steps of each stage."""
        return round(self.tokens / (self.stages * self.batch * self.length))


class SlimReporter(Protocol):
    """What a run tells whoever watches; the command line draws it."""

    def say(self, text: str) -> None: ...

    def step(self, stage: int, step: int, steps: int, loss: float) -> None: ...


def stage_widths(now: int, width: int, stages: int, dtype: torch.dtype) -> list[int]:
    """Widths at the end of each stage, by equal factors, each one that grouped kernels take.

    Raises:
        ValueError: nothing would be removed, at the end or in one of the stages.
    """
    if not 0 < width <= now:
        raise ValueError(f"--width {width}: the experts have {now} neurons, choose 1 to {now}")
    factors = [(width / now) ** ((stage + 1) / stages) for stage in range(stages)]
    widths = [usable_width(max(1, round(now * factor)), dtype) for factor in factors]
    path = [now, *widths]
    if any(b >= a for a, b in zip(path, widths, strict=False)):
        raise ValueError(
            f"--width {width} in {stages} stages: widths {' -> '.join(map(str, path))} (multiples of "
            f"{usable_width(1, dtype)} in {str(dtype).removeprefix('torch.')}) do not fall at every stage. "
            "Choose a smaller width or fewer stages"
        )
    return widths
