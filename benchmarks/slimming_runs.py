"""One seed of the slimming study: a small OLMoE teacher, its students, and what each of them loses.

Teacher and students are seen by nobody else: the teacher is trained here, on the standard library's sources
(`extract/training`), and every student of a seed gets the same batches. Torch only.
"""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mfgjax_extract import find_routers, tap_routers
from mfgjax_extract.checkpoint import Plan, extract_checkpoint
from mfgjax_extract.slimming import choose_units, neuron_scores, plan_slimming, slim
from mfgjax_extract.slimming.distil import Distillation, distil, windows_of
from mfgjax_extract.slimming.fewer import drop_experts, merge_experts
from mfgjax_extract.slimming.loss import cross_entropy, held_out_loss, target_of
from mfgjax_extract.texts import EncodedTexts, hash_texts

sys.path.append(
    str(Path(__file__).parent.parent / "extract" / "training")
)  # scripts, not a package

EXPERTS, TOP_K, LAYERS, HIDDEN, WIDTH = 16, 4, 2, 64, 32
BATCH, LENGTH = 8, 128
TEACHER_LR, STUDENT_LR = 3e-3, 6e-4
SCORED = 64
"""Texts that scores and expert use are taken from."""
HELD_OUT, TRACED = 256, 96
ZERO_TOKENS = ("taylor", "fisher", "magnitude", "activation", "random")


@dataclass(frozen=True)
class Size:
    """Steps of `BATCH * LENGTH` tokens: of the teacher, of a student of half the width, of an eighth."""

    teacher: int = 1000
    half: int = 100
    eighth: int = 200


def run_seed(seed: int, size: Size, traces: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Held-out losses of teacher and students, routing shifts, and times, of one seed."""
    from byte_tokens import encode
    from corpus import held_out_pieces, split_corpus

    data = encode(split_corpus()[0])
    pieces, _ = held_out_pieces(8, LENGTH)
    pieces = pieces[:HELD_OUT]
    held = torch.stack([encode(text.encode()) for text in pieces])
    cache = traces.parent / f"seed{seed}"  # of finished models: a seed that was killed goes on
    teacher = _cached(
        cache / "teacher.pt", _fresh(seed, WIDTH), lambda: _teacher(seed, size.teacher, data)
    )
    study = _Study(seed, teacher, data, held, {}, say, cache)
    study.note("teacher", teacher)

    calibration = [windows_of(data, -1 - i, seed, BATCH, LENGTH) for i in range(SCORED // BATCH)]
    cost = _cost(teacher, calibration)
    students = {
        method: study.cut(teacher, WIDTH // 2, calibration, method) for method in ZERO_TOKENS
    }
    students["drop by REAP"] = drop_experts(teacher, EXPERTS // 2, calibration)
    students["drop by frequency"] = drop_experts(teacher, EXPERTS // 2, calibration, "frequency")
    students["merge by frequency"] = merge_experts(teacher, EXPERTS // 2, calibration)
    for name, student in students.items():
        study.note(f"{name}, no tokens", student)
    shifts = {
        "slimmed, no tokens": _shift(teacher, students["taylor"], held[:TRACED]),
        "dropped, no tokens": _shift(teacher, students["drop by REAP"], held[:TRACED]),
    }
    texts = EncodedTexts(held[:TRACED].tolist(), hash_texts(pieces[:TRACED]), None)
    _trace(teacher, texts, traces, seed, 0, "teacher")
    _trace(students["taylor"], texts, traces, seed, 1, "slimmed")

    def trained(name: str, start: Any, steps: int, **changes) -> Any:
        return study.train(name, start, steps, size.half, **changes)

    both = trained("taylor", students["taylor"], size.half)
    shifts["slimmed, distilled"] = _shift(teacher, both, held[:TRACED])
    _trace(both, texts, traces, seed, size.half, "distilled")
    trained("taylor, teacher only", students["taylor"], size.half, text_weight=0.0)
    trained("taylor, text only", students["taylor"], size.half, teacher_weight=0.0)
    trained("taylor, routers only", students["taylor"], size.half, routers_only=True)
    for name in ("random", "drop by REAP", "drop by frequency", "merge by frequency"):
        student = trained(name, students[name], size.half)
        if name == "drop by REAP":
            shifts["dropped, distilled"] = _shift(
                teacher, student, held[:TRACED], students["drop by REAP"]
            )
    scratch = _fresh(seed + 1000, WIDTH // 2)
    trained("from scratch", scratch, size.half, teacher_weight=0.0, peak_lr=TEACHER_LR)
    for name, widths, steps in (
        ("taylor in two stages", (WIDTH * 3 // 4, WIDTH // 2), size.half),
        ("an eighth, one stage", (WIDTH // 8,), size.eighth),
        ("an eighth, two stages", (WIDTH * 3 // 8, WIDTH // 8), size.eighth),
    ):
        study.stages(name, widths, calibration, steps)
    return {"seed": seed, "loss": study.losses, "shift": shifts, "cost": cost}


def save_teacher(folder: Path, steps: int) -> Path:
    """A teacher as a checkpoint in `folder/teacher`; returns texts to slim it on."""
    from byte_tokens import byte_tokenizer, encode
    from corpus import held_out_pieces, split_corpus

    texts = folder / "texts.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    train = split_corpus()[0]
    if not (folder / "teacher").is_dir():
        _teacher(0, steps, encode(train)).save_pretrained(folder / "teacher")
        byte_tokenizer().save_pretrained(folder / "teacher")
    # Every tenth is held out by the command: those come from other files than the teacher's.
    held, _ = held_out_pieces(2, 512)
    count = 9 * len(held)
    starts = range(0, len(train) - 512, (len(train) - 512) // count)
    pieces = [train[start : start + 512].decode("ascii", "ignore") for start in starts]
    mixed = [held.pop() if i % 10 == 0 else pieces.pop() for i in range(10 * len(held))]
    texts.write_text("".join(json.dumps({"text": text}) + "\n" for text in mixed))
    return texts


@dataclass
class _Study:
    seed: int
    teacher: Any
    data: Tensor
    held: Tensor
    losses: dict[str, float]
    say: Callable[[str], None]
    cache: Path

    def note(self, name: str, model: Any) -> None:
        self.losses[name] = held_out_loss(model, self.held)
        self.say(f"seed {self.seed}: {name}: {self.losses[name]:.4f}")

    def cut(self, model: Any, width: int, calibration: list[Tensor], method: str = "taylor") -> Any:
        plan = plan_slimming(model, width=width)
        scores = neuron_scores(model, plan.blocks, calibration, cross_entropy, method, self.seed)
        return slim(model, plan, choose_units(plan, scores.values))

    def train(self, name: str, start: Any, steps: int, first: int = 0, **changes) -> Any:
        """A copy of `start`, trained on batches from `first` on."""
        fresh = _copy(start)
        how = Distillation(steps, **({"peak_lr": STUDENT_LR, "warmup": 20} | changes))

        @torch.no_grad()
        def teach(ids):
            return target_of(self.teacher(input_ids=ids, use_cache=False).logits, 8)

        def train() -> Any:
            distil(fresh, teach, lambda step: self.batch(first + step), how)
            return fresh

        student = _cached(self.cache / f"{name}.pt", fresh, train)
        self.note(name, student)
        return student

    def stages(self, name: str, widths: tuple[int, ...], calibration, steps: int) -> None:
        model, each = self.teacher, steps // len(widths)
        for stage, width in enumerate(widths):
            cut = self.cut(model, width, calibration)
            last = stage == len(widths) - 1
            label = name if last else f"{name}, at width {width}"
            model = self.train(label, cut, each, first=stage * each)

    def batch(self, step: int) -> Tensor:
        return windows_of(self.data, step, self.seed, BATCH, LENGTH)


def _cached(path: Path, into: Any, make: Callable[[], Any]) -> Any:
    """The model that `make` makes, from its file if it is there."""
    if path.exists():
        into.load_state_dict(torch.load(path, weights_only=True))
        return into.eval()
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    torch.save(made.state_dict(), partial)
    partial.replace(path)
    return made


def _fresh(seed: int, width: int) -> Any:
    from train_olmoe import build_model

    torch.manual_seed(seed)
    return build_model(EXPERTS, TOP_K, LAYERS, HIDDEN, width, 0.01).eval()


def _teacher(seed: int, steps: int, data: Tensor) -> Any:
    teacher = _fresh(seed, WIDTH)
    how = Distillation(steps, peak_lr=TEACHER_LR, teacher_weight=0.0, warmup=100)
    # Its batches are others than those of its students.
    distil(teacher, None, lambda s: windows_of(data, s, 500 + seed, BATCH, LENGTH), how)
    return teacher


def _copy(model: Any) -> Any:
    again = type(model)(model.config)
    again.load_state_dict(model.state_dict())
    return again


def _cost(teacher: Any, calibration: list[Tensor]) -> dict[str, float]:
    """CPU seconds to score a batch and to train on one; the models are thrown away."""
    blocks = plan_slimming(teacher, width=WIDTH // 2).blocks
    neuron_scores(teacher, blocks, calibration[:1], cross_entropy)
    begun = time.process_time()
    neuron_scores(teacher, blocks, calibration, cross_entropy)
    scoring = (time.process_time() - begun) / len(calibration)
    model = _copy(teacher)
    begun = time.process_time()
    distil(
        model, None, lambda s: calibration[s], Distillation(len(calibration), teacher_weight=0.0)
    )
    training = (time.process_time() - begun) / len(calibration)
    return {"score_seconds": scoring, "train_seconds": training}


@torch.no_grad()
def _routing(model: Any, windows: Tensor) -> list[Tensor]:
    """Chosen experts per layer, `[token, top_k]`."""
    found: list[list[Tensor]] = []
    with tap_routers(model) as tap:
        for part in windows.split(32):
            model(input_ids=part, use_cache=False)
            assert tap.latest is not None
            found.append([layer.choices for layer in tap.latest.layers])
    return [torch.cat(layer) for layer in zip(*found, strict=True)]


def _shift(
    teacher: Any, student: Any, windows: Tensor, dropped: Any = None
) -> list[dict[str, float]]:
    """Per layer: the share of the teacher's choices that the student makes too, and L1 of the loads.

    Experts of a smaller mixture are told by their router's row, in `dropped` if it was trained since.
    """
    rows = []
    routers = zip(find_routers(teacher), find_routers(dropped or student), strict=True)
    for (old, new), was, now in zip(
        routers, _routing(teacher, windows), _routing(student, windows), strict=True
    ):
        number = torch.cdist(new.weight.detach(), old.weight.detach()).argmin(-1)
        a, b = (torch.zeros(len(was), EXPERTS).scatter_(1, c, 1.0) for c in (was, number[now]))
        loads = a.sum(0) / a.sum(), b.sum(0) / b.sum()
        l1 = float((loads[0] - loads[1]).abs().sum())
        rows.append({"agreement": float((a * b).sum() / a.sum()), "load_l1": l1})
    return rows


def _trace(model: Any, texts: EncodedTexts, out: Path, seed: int, step: int, name: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    metadata = {
        "format": "mfgjax-trace",
        "version": 1,
        "model": f"slimming-seed{seed}",
        "revision": name,
        "step": step,
        "tokens_seen": step * BATCH * LENGTH,
        "aux_loss_coef": 0.01,
        "dtype": "float32",
        "texts_hash": texts.texts_hash,
        "tokenizer_hash": None,
        "text_count": len(texts.ids),
        "versions": {},
    }
    plan = Plan(out, f"seed{seed}-{name}", ("statistics", "tokens"), metadata, choice_blocks=0)
    extract_checkpoint(model.model, find_routers(model.model), texts, plan)
