"""Watch the routing of a model while it trains: what the Trainer's callback and plain loops share.

The monitor is handed in, not imported: anything with `observe(step, layers, **run)` and
`stop_requested` will do, `mfgjax.monitor.Monitor` above all. So torch code never loads JAX.
"""

import warnings
import weakref
from collections.abc import Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.router_state import RouterState
from mfgjax_extract.routers import find_routers, matching
from mfgjax_extract.settings import aux_loss_coef as stated_coefficient
from mfgjax_extract.step_sums import TERMS, StepSums
from mfgjax_extract.sweep_settings import layers_pattern
from mfgjax_extract.tap import RouterTap, Routing

_INTEGERS = ("tokens", "broken", "replayed")
_INTEGER_VECTORS = ("count", "padding", "last_count")


class Observer(Protocol):
    """What sums are handed to."""

    @property
    def stop_requested(self) -> bool: ...

    def observe(self, step: int, layers: Mapping[str, Mapping[str, Any]], **run: Any) -> Any: ...


class RoutingWatch:
    """The hooks on one model in training. Use through `MonitorCallback` or `watch_training`.

    Counted are forwards in training mode with gradients: not those of evaluation, generation or a
    reference model, and not the second forward of gradient checkpointing.

    Args:
        model: the module whose forward is called, not its data-parallel wrapper.
        monitor: takes the sums; on one rank only, where several train.
        every: sample one step in this many.
        layers: regular expression; only routers whose path it finds are watched.
        aux_loss_coef: of the balancing loss; None to look in the model's configuration.
        counter: name of the framework's counter at the routers; None to look for the usual ones.
        group: ranks that have different tokens. Leave out replicas (tensor or expert parallel ranks of
            the same batch): summed over those, every token would count more than once.
        scaler: of the loss in float16 training. Without it `aux_gradient` comes multiplied by its scale.

    Raises:
        RoutingError: no router found.
    """

    def __init__(
        self,
        model: nn.Module,
        monitor: Observer,
        *,
        every: int = 100,
        layers: str = "",
        aux_loss_coef: float | None = None,
        counter: str | None = None,
        group: dist.ProcessGroup | None = None,
        scaler: torch.amp.GradScaler | None = None,
    ):
        if every < 1:
            raise ValueError(f"every must be at least 1, got {every}")
        found = [r for r in find_routers(model) if r.reached_by_text and not r.in_encoder]
        routers = matching(found, layers_pattern(layers).pattern)
        if not routers:
            raise RoutingError(_nothing_found(model, layers, [r.path for r in found]))
        self._every = every
        self._model = weakref.ref(model)
        self._monitor = monitor
        self._group = group
        self._scaler = scaler
        stated = stated_coefficient(getattr(model, "config", None))
        self._coefficient = stated if aux_loss_coef is None else aux_loss_coef
        self._states = [RouterState(router, counter) for router in routers]
        self._sums: StepSums | None = None
        self._read: list[dict[str, Tensor]] | None = None
        self._step = 0
        self._began = self._evaluated = self._delivered = False
        consume = weakref.WeakMethod(self._add)  # the model's hooks do not keep this alive

        def add(routing: Routing) -> None:
            if (method := consume()) is not None:
                method(routing)

        self._tap = RouterTap(model, add, routers=routers, watching=True)
        self._tap.enabled = False
        begin = weakref.WeakMethod(self._before_forward)

        def before(module: nn.Module, _args: tuple) -> None:
            if (method := begin()) is not None:
                method(module)

        outside_graphs: Any = torch.compiler.disable(before)
        self._handle = model.register_forward_pre_hook(outside_graphs)
        self._tap.__enter__()
        for state in self._states:
            state.step_ended()
        weakref.finalize(self, _release, self._tap, self._handle)

    def begin_step(self, step: int, *, last: bool = False) -> None:
        """An optimiser step begins, whose number is `step`.

        Sampled are every `every`-th, the last, and one that an evaluation goes before.
        """
        self._step = step
        self._read = None
        self._began = self._evaluated = False
        sampled = last or step % self._every == 0
        self._tap.enabled = sampled
        self._sums = self._new_sums() if sampled else None

    def before_optimizer(self) -> None:
        """All gradients of the step are there, and the weights have not moved."""
        if self._sums is not None and self._sums.forwards and self._read is None:
            self._read = [state.read() for state in self._states]

    def end_step(self) -> bool:
        """The step is done. Returns whether the monitor asks to stop, the same on every rank."""
        sums, self._sums = self._sums, None
        self._tap.enabled = False
        read, self._read = self._read, None
        stop = False
        if sums is not None and sums.forwards and read is not None:
            stop = self._deliver(sums, read)
        if (self._step + 1) % self._every == 0:
            for state in self._states:
                state.step_ended()
        return stop

    def close(self) -> None:
        """Take the hooks off the model."""
        _release(self._tap, self._handle)
        self._sums = None

    def _new_sums(self) -> StepSums:
        return StepSums(self._tap.routers, self._states, self._scaler)

    def _training(self, model: nn.Module) -> bool:
        return model.training and torch.is_grad_enabled()

    def _before_forward(self, model: nn.Module) -> None:
        training = self._training(model)
        if training and not self._began:
            self._began = True
            if self._sums is not None:
                for state in self._states:
                    state.step_began()
        elif not training and not self._began and not self._evaluated:
            self._evaluated = True
            # Does the framework's counter see evaluation? Only the next step can tell. Of several ranks
            # one alone may evaluate, and all must sample the same steps.
            if not _several(self._group):
                for state in self._states:
                    state.step_ended()
                self._tap.enabled = True
                self._sums = self._sums or self._new_sums()

    def _add(self, routing: Routing) -> None:
        model = self._model()
        if self._sums is not None and model is not None and self._training(model):
            self._sums.add(routing)

    def _deliver(self, sums: StepSums, read: list[dict[str, Tensor]]) -> bool:
        layers, run = self._fetch(sums, read)
        failed = None
        if not _several(self._group) or dist.get_rank(self._group) == 0:
            try:
                self._monitor.observe(self._step, layers, **run)
            except Exception as error:
                failed = error
        stop = self._monitor.stop_requested
        if _several(self._group):
            flags = torch.tensor([stop, failed is not None], device=_device(self._model()))
            flags = flags.to(torch.int32)
            dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
            stop = bool(flags[0])
        if failed is not None:
            if not self._delivered:  # a mistake in the set-up, seen at once
                raise failed
            warnings.warn(f"the monitor failed and is off from now on: {failed}", stacklevel=2)
            self.close()
        self._delivered = True
        return stop

    def _fetch(
        self, sums: StepSums, read: list[dict[str, Tensor]]
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
        """One reduction over ranks and one copy to the host; then names, shapes and whole numbers."""
        added, names = sums.pack()
        device, wide = added.device, added.dtype
        loss = torch.zeros(1, device=device) if sums.aux_loss is None else sums.aux_loss.reshape(1)
        counters = [r["counter"] for r in read if "counter" in r]
        extra = [c.to(device, wide) for c in counters]
        forwards = torch.full((1,), float(sums.forwards), device=device)
        added = torch.cat([added, *extra, loss.to(device, wide), forwards.to(wide)])
        local = [value.reshape(-1).to(device, wide) for r in read for value in r.values()]
        if _several(self._group):
            dist.all_reduce(added, group=self._group)
        host = torch.cat([added, *local]).cpu().numpy()

        place = 0

        def take(length: int):
            nonlocal place
            place += length
            return host[place - length : place]

        found: list[dict[str, Any]] = []
        for pieces in names:
            found.append({name: take(length) for name, length in pieces})
        everywhere = {i: take(r["counter"].numel()) for i, r in enumerate(read) if "counter" in r}
        loss_value, forward_count = take(1)[0], take(1)[0]
        for i, (layer, state) in enumerate(zip(found, read, strict=True)):
            layer |= {name: take(value.numel()) for name, value in state.items()}
            if i in everywhere and not (layer["counter"] == layer["count"]).all():
                layer["counter"] = everywhere[i]  # the framework has not added up over ranks yet
            self._finish(i, layer, sums)
        run: dict[str, Any] = {"micro_batches": int(forward_count)}
        if sums.aux_loss is not None:
            run["aux_loss"] = float(loss_value / forward_count)
        if self._coefficient is not None:
            run["aux_loss_coef"] = self._coefficient
        paths = [router.path for router in self._tap.routers]
        return dict(zip(paths, found, strict=True)), run

    def _finish(self, place: int, layer: dict[str, Any], sums: StepSums) -> None:
        path = self._tap.routers[place].path
        for name, value in layer.items():
            if name in _INTEGER_VECTORS:
                layer[name] = value.astype("int64")
            elif value.shape == (1,):
                layer[name] = int(value[0]) if name in _INTEGERS else float(value[0])
        if layer["tokens"] and layer.pop("like_probabilities") == layer["tokens"]:
            raise RoutingError(
                f"{path}: every row lies in [0, 1] and sums to 1: these are probabilities, not logits. "
                "Add a rule to mfgjax_extract/families.py"
            )
        layer.pop("like_probabilities", None)
        layer["top_k"] = sums.top_k[place]
        layer["router_trained"] = self._states[place].trained
        layer["bias_bits"] = self._states[place].bias_bits()
        layer["counter_bits"] = self._states[place].counter_bits()
        if "router_state" in layer:
            layer["router_state"] = tuple(layer["router_state"].tolist())
        if "gradient" in layer:
            terms = dict(zip(TERMS, layer["gradient"].tolist(), strict=True))
            layer["gradient"] = terms | {"batches": sums.forwards}


def _several(group: dist.ProcessGroup | None) -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


def _device(model: nn.Module | None) -> torch.device:
    first = None if model is None else next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


def _release(tap: RouterTap, handle) -> None:
    tap.close()
    handle.remove()


def _nothing_found(model: nn.Module, layers: str, paths: list[str]) -> str:
    if paths:
        return (
            f"none of the {len(paths)} routers of {type(model).__name__} has a path that "
            f"{layers!r} finds; they are {', '.join(paths[:6])}"
        )
    return (
        f"no router found in {type(model).__name__}. Looked for modules whose class name ends in Router, "
        "Gate or TopKGating and that own a 2-D weight, and for linear maps called gate, router, wg or "
        "router_gate beside a module called experts of as many experts. Run `mfgjax-extract inspect` on "
        "the model, and add a rule to mfgjax_extract/families.py if it does have experts"
    )
