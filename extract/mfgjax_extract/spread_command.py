"""`mfgjax-extract --on WHERE`: options in, progress over tasks out."""

import os
import re
from typing import Any

from mfgjax_extract.console import messages, show_json
from mfgjax_extract.engines import Engine, check_on, engine_for
from mfgjax_extract.engines.needs import Needs, parse_needs
from mfgjax_extract.engines.progress import TaskProgress
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES
from mfgjax_extract.spread import spread
from mfgjax_extract.sweep_settings import SweepSettings
from mfgjax_extract.task import Extracted


def spread_over(
    on: str,
    per_checkpoint: str,
    revisions: list[Revision],
    texts: list[str],
    settings: SweepSettings,
    delete_downloads: bool,
    retry: list[str],
    as_json: bool,
) -> list[Revision]:
    """Run the sweep on what `--on` names.

    Returns:
        The checkpoints that failed; the reason of each was said.

    Raises:
        ValueError: options that mean nothing, or not together.
        ImportError: the engine's package is not installed.
    """
    check_on(on)
    needs = parse_needs("--per-checkpoint", per_checkpoint)
    _check_device(needs, settings.device)
    workers = re.fullmatch(r"local:([1-9]\d*)", on)
    share = max((os.cpu_count() or 1) // int(workers[1]), 1) if workers else 1

    def engine() -> Engine:
        return engine_for(on, needs, settings.out.resolve() / NOTES)

    with _Progress(messages, "checkpoints", as_json) as progress:
        return spread(
            revisions,
            texts,
            settings,
            engine,
            progress,
            needs.cpu or share,
            delete_downloads,
            retry,
        )


def _check_device(needs: Needs, device: str) -> None:
    if device.startswith("cuda:"):
        raise ValueError(
            f"--device {device} with --on: each task sees its own GPUs only, say --device cuda"
        )
    if device == "cpu" and needs.gpu:
        raise ValueError(f"--per-checkpoint gpu={needs.gpu} with --device cpu: say --device cuda")
    if device == "cuda" and not needs.gpu:
        raise ValueError("--device cuda with --on: say how many, --per-checkpoint gpu=1")


class _Progress(TaskProgress):
    """With one line of JSON for each checkpoint, where asked for."""

    def __init__(self, console, what: str, as_json: bool):
        super().__init__(console, what)
        self._as_json = as_json

    def skipped(self, name: str) -> None:
        super().skipped(name)
        self._line({"revision": name, "written": False})

    def finished(self, name: str, outcome: Extracted) -> None:
        super().finished(name, outcome)
        record: dict[str, Any] = {
            "revision": name,
            "written": outcome.state == "written",
            "host": outcome.host,
            "seconds": round(outcome.seconds, 3),
        }
        if outcome.state == "written":
            record["tokens"] = outcome.tokens
            record["files"] = [{"path": f.path, "digest": f.digest} for f in outcome.files]
        elif outcome.state == "failed":
            record["failed"] = outcome.reason
        self._line(record)

    def result(self, outcome: Extracted) -> str:
        size = sum(file.bytes for file in outcome.files) / 1e6
        return (
            f"{outcome.tokens:,} tokens in {outcome.seconds:,.1f} s on {outcome.host}, "
            f"{len(outcome.files)} files, {size:.1f} MB"
        )

    def _line(self, record: dict[str, Any]) -> None:
        if self._as_json:
            show_json(record)
