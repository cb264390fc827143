"""A transformers `TrainerCallback` that lets a monitor watch the routing of a run while it trains.

from mfgjax.monitor import Monitor
from mfgjax_extract.callback import MonitorCallback

trainer.add_callback(MonitorCallback(Monitor("run/"), every=100))
"""

import torch.distributed as dist
from transformers import TrainerCallback

from mfgjax_extract.watch import Observer, RoutingWatch


class MonitorCallback(TrainerCallback):
    """Hands the monitor sums of every `every`-th optimiser step and of the last one.

    Batches of one step (gradient accumulation) are put together, and so are ranks; the monitor runs on
    the first. Training is the same bit for bit with and without it.

    A run that starts over (`train()` called again after it raised, `auto_find_batch_size`) reports its
    steps again, from the first. The trainer does not tell its callbacks that it raised: the hooks
    then stay on the model until the next `train()`, `close()`, or the end of the callback or of a `with`
    block around it.

    Args:
        monitor: `mfgjax.monitor.Monitor`, or anything with its `observe` and `stop_requested`.
        every: sample one step in this many.
        layers: regular expression; only routers whose path it finds are watched.
        aux_loss_coef: of the balancing loss; None to look in the model's configuration.
        counter: name of the framework's counter at the routers; None to look for the usual ones.
        group: ranks with different tokens; see `RoutingWatch`.
    """

    def __init__(
        self,
        monitor: Observer,
        every: int = 100,
        layers: str = "",
        aux_loss_coef: float | None = None,
        counter: str | None = None,
        group: dist.ProcessGroup | None = None,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        self._monitor = monitor
        self._settings = {
            "every": every,
            "layers": layers,
            "aux_loss_coef": aux_loss_coef,
            "counter": counter,
            "group": group,
        }
        self._watch: RoutingWatch | None = None

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs):
        if model is None:
            raise ValueError("MonitorCallback got no model from the trainer")
        self.close()  # of a run that raised, else its hooks would count beside the new ones
        scaler = getattr(optimizer, "scaler", None)  # accelerate's, in float16
        self._watch = RoutingWatch(model, self._monitor, scaler=scaler, **self._settings)

    def on_step_begin(self, args, state, control, **kwargs):
        if self._watch is not None:
            last = state.global_step + 1 == state.max_steps
            self._watch.begin_step(state.global_step, last=last)

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if self._watch is not None:
            self._watch.before_optimizer()

    def on_step_end(self, args, state, control, **kwargs):
        if self._watch is not None and self._watch.end_step():
            control.should_training_stop = True
        return control

    def on_train_end(self, args, state, control, **kwargs):
        self.close()

    def close(self) -> None:
        """Take the hooks off the model and forget what was summed; a new run sets new ones."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    def __enter__(self) -> "MonitorCallback":
        return self

    def __exit__(self, *_exc) -> None:
        self.close()
