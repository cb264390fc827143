"""Where scalars and alarms go beside the journal. A package is imported when its sink is made.

| sink | scalars | alarms |
|---|---|---|
| `TensorBoard(folder)` | `add_scalar` | as text |
| `Wandb(run)` | `run.log` | `run.alert` |
| `Trackio()` | `trackio.log` | `trackio.alert` |
| `Webhook(url)` | - | a POST of JSON with `text`, as Slack and others take it |

Anything with the methods of `Sink` is a sink. One that fails is named once and dropped.
"""

import json
import threading
import urllib.request
from pathlib import Path
from typing import Any, Protocol

from mfgjax.monitor.faults import Alarm


class Sink(Protocol):
    """Takes scalars and alarms."""

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one sampled step, by name."""
        ...

    def alarm(self, alarm: Alarm) -> None:
        """One alarm."""
        ...

    def close(self) -> None:
        """No more will come."""
        ...


class TensorBoard:
    """Event files for TensorBoard, through tensorboardX or torch's writer.

    Anything with `add_scalar`, `add_text` and `flush` will do as a writer. The one of flax has other names.

    Args:
        folder: of the event files.
        writer: an open `SummaryWriter` to use in place of a new one.
    """

    def __init__(self, folder: str | Path | None = None, writer: Any = None):
        self._owned = writer is None
        self._writer = _summary_writer(str(folder)) if writer is None else writer

    def scalars(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def alarm(self, alarm: Alarm) -> None:
        self._writer.add_text("moe/alarm", alarm.sentence, alarm.step)
        self._writer.flush()

    def close(self) -> None:
        if self._owned:
            self._writer.close()


def _summary_writer(folder: str) -> Any:
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ImportError(
            "TensorBoard(folder) needs tensorboardX (pip install tensorboardX); or hand over a writer "
            "that is open: TensorBoard(writer=torch.utils.tensorboard.SummaryWriter(folder)), which needs "
            "tensorboard"
        ) from None
    return SummaryWriter(folder)


def _title(alarm: Alarm) -> str:
    """Of at most 64 characters, as W&B takes it."""
    return (f"{alarm.fault} in {alarm.layer}" if alarm.layer else str(alarm.fault))[:64]


class Wandb:
    """The run of Weights & Biases that is open, or the one handed over.

    Scalars are logged without `step`, beside `moe/step`, over which they are drawn: the trainer's own steps
    may be ahead.
    """

    def __init__(self, run: Any = None):
        if run is None:
            import wandb  # pyright: ignore[reportMissingImports]

            run = wandb.run
            if run is None:
                raise ValueError(
                    "Wandb(): no run is open. Call wandb.init() first, or hand one over"
                )
        run.define_metric("moe/*", step_metric="moe/step")
        self._run = run

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._run.log({**values, "moe/step": step})

    def alarm(self, alarm: Alarm) -> None:
        self._run.alert(title=_title(alarm), text=alarm.sentence, level="WARN")

    def close(self) -> None:
        """The run is the trainer's to finish."""


class Trackio:
    """The Trackio project that is open."""

    def __init__(self):
        import trackio  # pyright: ignore[reportMissingImports]

        self._trackio: Any = trackio

    def scalars(self, step: int, values: dict[str, float]) -> None:
        self._trackio.log({**values, "moe/step": step})

    def alarm(self, alarm: Alarm) -> None:
        level = self._trackio.AlertLevel.WARN
        self._trackio.alert(title=_title(alarm), text=alarm.sentence, level=level)

    def close(self) -> None:
        """The project is the trainer's to finish."""


class Webhook:
    """Posts every alarm as JSON: `text`, and the alarm's fields. Does not wait for the answer.

    Args:
        url: https or http.
        timeout: seconds after which a post is given up.
    """

    def __init__(self, url: str, timeout: float = 10.0):
        if not url.startswith(("https://", "http://")):
            raise ValueError(f"Webhook({url!r}): an address that begins with https:// was expected")
        self._url = url
        self._timeout = timeout
        self._failed: Exception | None = None
        self._threads: list[threading.Thread] = []

    def scalars(self, step: int, values: dict[str, float]) -> None:
        if self._failed is not None:  # told in the training thread, at the next sampled step
            raise self._failed

    def alarm(self, alarm: Alarm) -> None:
        body = json.dumps({"text": alarm.sentence, **alarm.to_row()}).encode()
        header = {"Content-Type": "application/json"}
        request = urllib.request.Request(self._url, body, header, method="POST")
        thread = threading.Thread(target=self._post, args=(request,), daemon=True)
        thread.start()
        self._threads.append(thread)

    def _post(self, request: urllib.request.Request) -> None:
        try:
            urllib.request.urlopen(request, timeout=self._timeout).close()
        except Exception as error:
            self._failed = error

    def close(self) -> None:
        for thread in self._threads:
            thread.join(self._timeout)
