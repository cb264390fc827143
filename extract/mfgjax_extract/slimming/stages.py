"""A whole slimming run: score, cut, distil, and again; every model of it saved, and its routing extracted.

The folder of a run (hub layout, each model loads with stock `from_pretrained`):

    step1-tokens0-width16-slimmed/       cut, not yet trained: its step is one after the last trained one
    step732-tokens750000-width16/        distilled
    traces/                              of the teacher (step 0) and of each of these, for `mfgjax track`
    slim.json, log.jsonl                 what was done; losses and gaps to the teacher

Stages shrink by equal factors. A run that was killed goes on with the same command: models that are there
are not made again, and a stage in training goes on from its last state.
"""

import dataclasses
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mfgjax_extract.load import check_placement, load_model, load_tokenizer
from mfgjax_extract.revisions import Revision
from mfgjax_extract.slimming.cut import choose_units, slim
from mfgjax_extract.slimming.distil import Distillation, distil, windows_of
from mfgjax_extract.slimming.layout import expert_blocks
from mfgjax_extract.slimming.loss import cross_entropy, held_out_loss, target_of
from mfgjax_extract.slimming.plan import plan_slimming
from mfgjax_extract.slimming.run_settings import SlimReporter, SlimSettings, stage_widths
from mfgjax_extract.slimming.scores import SCORES, neuron_scores
from mfgjax_extract.sweep import Reporter, sweep
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.texts import encode_texts, hash_tokenizer

HELD_OUT_SHARE = 10
"""Every tenth text is held out where no others are given."""
MOST_WINDOWS = 256


def run_slimming(
    model: Revision,
    texts: list[str],
    settings: SlimSettings,
    out: Path,
    *,
    teacher: Revision | None = None,
    held_out: list[str] | None = None,
    reporter: SlimReporter,
) -> dict[str, Any]:
    """Slim `model` in stages into `out`; see the module. Resumes a run with the same settings.

    Args:
        model: the model to slim.
        texts: to score and train on.
        settings: of the run.
        out: folder of the run.
        teacher: to learn from, of the same tokenizer; `model` if None.
        held_out: texts for losses and traces; every tenth of `texts` if None.
        reporter: gets progress.

    Returns:
        What `slim.json` holds: `models`, each with step, width, parameters, held-out loss, and gap to the
        teacher; `peak_memory_bytes`.

    Raises:
        ValueError: settings or texts that cannot be used, a teacher with another tokenizer, or a folder of
            another run.
    """
    say = reporter.say
    if settings.score not in SCORES or settings.stages < 1 or settings.steps < 1:
        raise ValueError(
            f"--score one of {', '.join(SCORES)}, --stages of at least 1, and --tokens for at least one step "
            f"of {settings.batch * settings.length} tokens per stage were expected"
        )
    check_placement(settings.dtype, settings.device)
    tokenizer = load_tokenizer(model, settings.trust_remote_code)
    if teacher is not None and hash_tokenizer(
        load_tokenizer(teacher, settings.trust_remote_code)
    ) != hash_tokenizer(tokenizer):
        raise ValueError(
            f"{teacher.source}: another tokenizer than that of {model.source}: its predictions are of other "
            "tokens, and cannot be learnt from"
        )
    if held_out is None:
        held_out = texts[::HELD_OUT_SHARE]
        texts = [text for i, text in enumerate(texts) if i % HELD_OUT_SHARE]
    training = _in_one_row(tokenizer, texts)
    windows = _in_one_row(tokenizer, held_out)
    windows = windows[: len(windows) // settings.length * settings.length]
    windows = windows.reshape(-1, settings.length)[:MOST_WINDOWS].to(settings.device)
    if len(training) < settings.length or not len(windows):
        raise ValueError(
            f"{len(texts)} texts to train on and {len(held_out)} held out: each must hold at least --length "
            f"{settings.length} tokens"
        )
    _claim(out, model, teacher, settings)

    def load(revision: Revision) -> Any:
        code = settings.trust_remote_code
        return load_model(revision, settings.dtype, settings.device, code, head=True)

    student = load(model)
    master = student if teacher is None else load(teacher)
    if len(training) and master.config.get_text_config().vocab_size <= int(training.max()):
        raise ValueError(
            f"its vocabulary of {master.config.get_text_config().vocab_size} is too small"
        )
    now = expert_blocks(student)[0].units
    widths = stage_widths(now, settings.width, settings.stages, student.dtype)
    if widths[-1] != settings.width:
        say(f"width {settings.width} is rounded up to {widths[-1]}, which grouped kernels take")
    run = _Run(settings, out, master, tokenizer, training, windows, reporter)
    run.note("teacher", 0, 0, expert_blocks(master)[0].units, master)
    for stage, width in enumerate(widths):
        student = run.stage(stage, width, student, load)
    found = {"models": run.models, "peak_memory_bytes": peak_memory(settings.device)}
    _write(out / "slim.json", found)
    del student, master, run.teacher
    _extract(model if teacher is None else teacher, found["models"], held_out, settings, out, say)
    return found


@dataclass
class _Run:
    settings: SlimSettings
    out: Path
    teacher: Any
    tokenizer: Any
    training: Tensor
    windows: Tensor
    reporter: SlimReporter
    models: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def stage(self, stage: int, width: int, model: nn.Module, load: Callable) -> Any:
        """Cut and distil, or load what is there; returns the student."""
        settings, steps = self.settings, self.settings.steps
        first = stage * steps
        per_step = settings.batch * settings.length
        cut = f"step{first + 1}-tokens{first * per_step}-width{width}-slimmed"
        done = f"step{first + steps}-tokens{(first + steps) * per_step}-width{width}"
        source = self.out / cut
        if source.is_dir():
            student = load(Revision(cut, str(source), None, None, None))
        else:
            student = self._slimmed(stage, width, model)
            self._save(student, source)
        self.note(cut, first + 1, first * per_step, width, student)
        if (self.out / done).is_dir():
            student = load(Revision(done, str(self.out / done), None, None, None))
        else:
            how = Distillation(steps, settings.peak_lr)
            state = self.out / "state.pt"
            distil(
                student,
                self._teach,
                lambda step: self._batch(first + step),
                how,
                state,
                lambda step, loss: self.reporter.step(stage, step, steps, loss),
            )
            self._save(student, self.out / done)
        self.note(done, first + steps, (first + steps) * per_step, width, student)
        return student

    def note(self, name: str, step: int, tokens: int, width: int, model: nn.Module) -> None:
        """Measure a model of the run and say how far it is from its teacher."""
        loss = held_out_loss(model, self.windows)
        gap = loss - self.models[0]["held_out_loss"] if self.models else 0.0
        count = sum(p.numel() for p in model.parameters())
        row = {"name": name, "step": step, "tokens": tokens, "width": width, "parameters": count}
        self.models.append(row | {"held_out_loss": loss, "gap": gap})
        self.reporter.say(
            f"{name}: {count:,} parameters, held-out loss {loss:.4f}, {gap:+.4f} to the teacher"
        )

    def _slimmed(self, stage: int, width: int, model: nn.Module) -> Any:
        settings = self.settings
        groups = settings.head_groups if stage == settings.stages - 1 else None
        plan = plan_slimming(model, width=width, head_groups=groups)
        for block in plan.tied[:1]:
            self.reporter.say(
                f"{len(plan.tied)} MLPs share the setting {plan.field} and are cut too ({block.path})"
            )
        windows = self._batch(-1 - stage, settings.score_texts).split(settings.batch)
        scored = neuron_scores(
            model, plan.blocks, windows, cross_entropy, settings.score, settings.seed
        )
        if scored.unrouted or scored.rare:
            self.reporter.say(
                f"of {scored.experts} experts {scored.unrouted} served no text that was scored (cut by the size of "
                f"their weights), {scored.rare} fewer than 4 (noisy): more --score-texts help"
            )
        return slim(model, plan, choose_units(plan, scored.values))

    @torch.no_grad()
    def _teach(self, ids: Tensor):
        logits = self.teacher(input_ids=ids, use_cache=False).logits
        return target_of(logits, self.settings.teacher_logits)

    def _batch(self, step: int, texts: int | None = None) -> Tensor:
        s = self.settings
        found = windows_of(self.training, step, s.seed, texts or s.batch, s.length)
        return found.to(s.device)

    def _save(self, student: Any, folder: Path) -> None:
        """A model gets its name when it is whole."""
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        student.save_pretrained(partial)
        self.tokenizer.save_pretrained(partial)
        os.replace(partial, folder)


def peak_memory(device: str) -> int:
    """Most bytes that this process held, on the GPU if it ran there."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated())
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _in_one_row(tokenizer: Any, texts: list[str]) -> Tensor:
    """The tokens of all texts, one after the other."""
    ids = encode_texts(tokenizer, texts, None).ids
    return torch.from_numpy(np.concatenate([np.asarray(one, np.int64) for one in [*ids, []]]))


def _claim(out: Path, model: Revision, teacher: Revision | None, settings: SlimSettings) -> None:
    """Note whose run `out` is; raises `ValueError` if it is another's."""
    out.mkdir(parents=True, exist_ok=True)
    sources = {"model": model.source, "teacher": (teacher or model).source}
    mine = json.loads(json.dumps(sources | dataclasses.asdict(settings)))
    path = out / "settings.json"
    if path.exists() and (there := json.loads(path.read_text())) != mine:
        other = [f"{k} {there.get(k)!r}, now {mine[k]!r}" for k in mine if there.get(k) != mine[k]]
        raise ValueError(f"{out} is another run ({'; '.join(other)}): choose another --out")
    _write(path, mine)


def _write(path: Path, content: dict) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(partial, path)


def _extract(
    teacher: Revision, models: list[dict], texts: list[str], settings: SlimSettings, out: Path, say
) -> None:
    """Traces of the teacher, as step 0, and of every model of the run."""
    revisions = [dataclasses.replace(teacher, name="step0-teacher", step=0, tokens_seen=0)]
    revisions += [
        Revision(m["name"], str(out / m["name"]), None, m["step"], m["tokens"]) for m in models[1:]
    ]
    how = SweepSettings(
        name=f"{Path(teacher.source).name}-slim",
        out=out / "traces",
        dtype=settings.dtype,
        device=settings.device,
        trust_remote_code=settings.trust_remote_code,
    )
    failed = sweep(revisions, texts, how, Reporter())
    for revision in failed:
        say(f"{revision.name}: its routing could not be extracted")
