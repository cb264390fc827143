"""Watch a training loop that is written by hand: three lines, and none inside the loop.

with watch_training(model, optimizer, Monitor("run/"), every=100) as watch:
    for batch in data:                      # the loop as it was
        ...
        if watch.stop_requested: break      # only if the monitor shall stop it
"""

from collections import OrderedDict

from torch import nn
from torch.optim import Optimizer

from mfgjax_extract.watch import Observer, RoutingWatch


class TrainingWatch:
    """Takes the optimiser's steps for the steps of the run. Use through `watch_training`.

    Attributes:
        step: optimiser steps done.
        stop_requested: whether the monitor asked to stop.
    """

    def __init__(self, watch: RoutingWatch, optimizer: Optimizer, first_step: int):
        self.step = first_step
        self.stop_requested = False
        self._watch = watch
        self._optimizer = optimizer
        self._handles: list = []

    def __enter__(self) -> "TrainingWatch":
        before = self._optimizer.register_step_pre_hook(lambda *_: self._watch.before_optimizer())
        # Bias updates of frameworks are such hooks too, and set their counter back: read it first.
        hooks = getattr(self._optimizer, "_optimizer_step_pre_hooks", None)
        if isinstance(hooks, OrderedDict) and before.id in hooks:
            hooks.move_to_end(before.id, last=False)
        self._handles = [
            before,
            self._optimizer.register_step_post_hook(lambda *_: self._stepped()),
        ]
        self._watch.begin_step(self.step)
        return self

    def __exit__(self, *_exc) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        self._watch.close()

    def _stepped(self) -> None:
        self.stop_requested |= self._watch.end_step()
        self.step += 1
        self._watch.begin_step(self.step)


def watch_training(
    model: nn.Module,
    optimizer: Optimizer,
    monitor: Observer,
    *,
    every: int = 100,
    first_step: int = 0,
    **settings,
) -> TrainingWatch:
    """Watch every `every`-th step of `optimizer` while the `with` block lasts.

    Args:
        model: the module whose forward the loop calls, or that its data-parallel wrapper calls.
            Compile it inside the block.
        optimizer: steps once per optimiser step; with gradient accumulation all forwards between two
            of its steps belong together.
        monitor: `mfgjax.monitor.Monitor`, or anything with its `observe` and `stop_requested`.
        every: sample one step in this many.
        first_step: steps done before, in a run that goes on.
        settings: the other arguments of `RoutingWatch`. In float16, `scaler=` your `GradScaler`. A step
            that it skips is no step of the optimiser: its batches belong to the next one, here as in a
            counter that the optimiser's hook sets back, and `aux_gradient` of that step is NaN.

    Raises:
        RoutingError: no router found, or the model was compiled before.
    """
    watch = RoutingWatch(model, monitor, every=every, **settings)
    return TrainingWatch(watch, optimizer, first_step)
