"""The monitor of one run: sums in; a record, alarms and what sinks and actions make of them out."""

import logging
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mfgjax.monitor.audits import Audits
from mfgjax.monitor.change import Cusum, threshold_of, unevenness_signal
from mfgjax.monitor.faults import Alarm, Fault
from mfgjax.monitor.journal import Journal, read_journal
from mfgjax.monitor.measure import measure
from mfgjax.monitor.record import Record
from mfgjax.monitor.sinks import Sink
from mfgjax.monitor.sums import MonitorError, step_sums

log = logging.getLogger("mfgjax.monitor")

_REARM = 20  # sampled steps without a fault, after which it is said again


class Monitor:
    """Watches one run. Use it from one process; the fronts see to that where several train.

    Every alarm is logged as a warning. It is raised once per fault and layer, and again when the fault
    was gone for 20 sampled steps.

    Args:
        folder: of the run; `monitor.jsonl` in it gets every record and alarm. A run that goes on
            appends, and takes up what the file says of the steps before. None keeps nothing.
        sinks: where else to: see `mfgjax.monitor.sinks`.
        on_alarm: called with every alarm.
        stop_on: faults that stop training; `True` for all.
        ignore: faults that are meant to be, such as a router that is frozen on purpose.
        budget: false alarms of the change detector per layer and sampled step.
        per_layer: log every metric of every layer to the sinks too, not the twelve alone.
        counts: keep the tokens of every expert in the records.

    Attributes:
        alarms: all so far, of this process.
        stop_requested: whether a fault in `stop_on` was found.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        sinks: Iterable[Sink] = (),
        on_alarm: Callable[[Alarm], None] | None = None,
        stop_on: Collection[Fault] | bool = (),
        ignore: Collection[Fault] = (),
        budget: float = 1e-4,
        per_layer: bool = False,
        counts: bool = True,
    ):
        self.alarms: list[Alarm] = []
        self.stop_requested = False
        self._folder = None if folder is None else Path(folder)
        self._sinks = list(sinks)
        self._on_alarm = on_alarm
        self._stop_on = frozenset(Fault) if stop_on is True else frozenset(stop_on or ())
        self._ignore = frozenset(ignore)
        self._per_layer = per_layer
        self._counts = counts
        self._audits = Audits()
        self._change = Cusum(threshold_of(budget))
        self._shape: tuple[tuple[str, ...], list[int]] | None = None
        self._last_seen: dict[tuple[Fault, str], int] = {}
        self._checks = 0
        self._journal: Journal | None = None

    def observe(self, step: int, layers: Mapping[str, Mapping[str, Any]], **run: Any) -> Record:
        """Take the sums of one sampled step; record, judge, tell.

        Args:
            step: optimiser steps done before it.
            layers: by layer, the fields of `LayerSums`. Arrays of JAX are copied to the host here.
            run: `aux_loss_coef`, `aux_loss`, `micro_batches`.

        Raises:
            MonitorError: sums that cannot be right, layers that are not those of the steps before, or a
                folder with records of another version.
        """
        if any(type(v).__module__.startswith("jax") for x in layers.values() for v in x.values()):
            from mfgjax.monitor.jax_front import to_host

            layers = to_host(layers)
        sums = step_sums(step, layers, **run)
        record = measure(sums, counts=self._counts)
        self._check_shape(record)
        if self._journal is None and self._folder is not None:
            self._resume(self._folder, step)
        alarms = [*self._audits.check(sums, record), *self._changed(record)]
        fresh = [alarm for alarm in alarms if self._is_news(alarm)]
        self._checks += 1
        if self._journal is not None:
            self._journal.write(record, fresh)
        self._tell_sinks(record, fresh)
        for alarm in fresh:
            self._raise(alarm)
        return record

    def close(self) -> None:
        """Close the file and the sinks."""
        for sink in self._sinks:
            self._guarded(sink, sink.close)
        if self._journal is not None:
            self._journal.close()
        self._journal = None

    def __enter__(self) -> "Monitor":
        return self

    def __exit__(self, *_exc) -> None:
        self.close()

    def _check_shape(self, record: Record) -> None:
        shape = (record.layers, record.experts.tolist())
        if self._shape is None:
            self._shape = shape
        if shape != self._shape:
            raise MonitorError(
                f"step {record.step}: layers {_named(shape)}, the steps before had {_named(self._shape)}. "
                "One monitor watches one model: make another for another model"
            )

    def _resume(self, folder: Path, step: int) -> None:
        path = folder / "monitor.jsonl"
        if path.exists():
            run = read_journal(folder)
            for record in run.records:
                if record.step < step:
                    self._check_shape(record)
                    self._change.update(*unevenness_signal(record))
            for alarm in run.alarms:
                if alarm.step < step:
                    self._last_seen[alarm.fault, alarm.layer] = 0
        self._journal = Journal(folder)

    def _changed(self, record: Record) -> list[Alarm]:
        before = self._change.reference
        raised = self._change.update(*unevenness_signal(record))
        return [
            Alarm(record.step, Fault.LOAD_CHANGED, record.layers[i], _change(record, i, before[i]))
            for i in np.flatnonzero(raised).tolist()
        ]

    def _is_news(self, alarm: Alarm) -> bool:
        key = alarm.fault, alarm.layer
        seen = self._last_seen.get(key)
        self._last_seen[key] = self._checks
        return alarm.fault not in self._ignore and (seen is None or self._checks - seen > _REARM)

    def _raise(self, alarm: Alarm) -> None:
        self.alarms.append(alarm)
        log.warning(alarm.sentence)
        self.stop_requested |= alarm.fault in self._stop_on
        if self._on_alarm is not None:
            self._on_alarm(alarm)

    def _tell_sinks(self, record: Record, alarms: list[Alarm]) -> None:
        for sink in list(self._sinks):
            scalars = record.scalars(self._per_layer)
            if self._guarded(sink, lambda s=sink, n=scalars: s.scalars(record.step, n)):
                for alarm in alarms:
                    if not self._guarded(sink, lambda s=sink, a=alarm: s.alarm(a)):
                        break

    def _guarded(self, sink: Sink, call: Callable[[], None]) -> bool:
        """A sink that fails is named once and dropped: it never stops training."""
        try:
            call()
        except Exception as error:
            self._sinks = [s for s in self._sinks if s is not sink]
            text = f"{type(sink).__name__} failed and is dropped: {type(error).__name__}: {error}"
            warnings.warn(text, stacklevel=4)
            return False
        return True


def _named(shape: tuple[tuple[str, ...], list[int]]) -> str:
    names, experts = shape
    first = ", ".join(f"{n} ({m} experts)" for n, m in list(zip(names, experts, strict=True))[:3])
    return f"{first}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"


def _change(record: Record, layer: int, before: float) -> str:
    # The signal is the log of 2 (log M - entropy).
    was = 1 - np.exp(before) / (2 * np.log(record.experts[layer]))
    return (
        f"the load's entropy is {record.entropy[layer]:.3f} after {was:.3f} of its largest; expert "
        f"{record.busiest[layer]} gets {record.max_share[layer]:.0%} of the dispatches"
    )
