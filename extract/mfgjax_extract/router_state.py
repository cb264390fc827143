"""What a router and its experts hold beside the tokens: bias, counter, and whether they learn."""

import re

import torch
from torch import Tensor, nn

from mfgjax_extract.routers import Router

BIAS = re.compile(r"(correction_bias|expert_bias|score_bias|routing_bias|balancing_bias)$")
"""Names of selection biases, in transformers and in the common training frameworks."""

COUNTERS = ("tokens_per_expert", "local_tokens_per_expert", "expert_counts", "expert_load", "count")
"""Names under which routers count the tokens that their bias is updated from."""

_BITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}


class RouterState:
    """Reads one router. Every number stays on the device until it is asked for.

    Args:
        router: the router.
        counter: name of the counter, of the router or of the block around it; None to look for one
            of `COUNTERS`.
    """

    def __init__(self, router: Router, counter: str | None = None):
        self._router = router
        self._owners = [router.module, router.block]
        self._counters = COUNTERS if counter is None else (counter,)
        self._after = self._before = None

    def bias(self) -> Tensor | None:
        """`[expert]` the selection bias as it is stored."""
        for owner in self._owners:
            for name, value in [*owner.named_buffers(), *owner.named_parameters()]:
                if BIAS.search(name) and value.numel() == self._router.num_experts:
                    return value.detach().reshape(-1)
        return None

    def bias_bits(self) -> int:
        """Mantissa bits of its type."""
        bias = self.bias()
        return 24 if bias is None else _BITS.get(bias.dtype, 24)

    def counter(self) -> Tensor | None:
        """`[expert]` the framework's own counter as it is now."""
        for owner in self._owners:
            for name in self._counters:
                value = getattr(owner, name, None)
                if isinstance(value, Tensor) and value.numel() == self._router.num_experts:
                    return value.detach().reshape(-1)
        return None

    def counter_bits(self) -> int:
        """Mantissa bits of its type; 64 for integers."""
        counter = self.counter()
        return 64 if counter is None else _BITS.get(counter.dtype, 64)

    def step_ended(self) -> None:
        """Remember the counter as the last step left it."""
        self._after = _copy(self.counter())

    def step_began(self) -> None:
        """Remember the counter as the first forward of the step finds it."""
        self._before = _copy(self.counter())

    def counted(self) -> dict[str, Tensor]:
        """What the counter says of this step, and what else it holds; empty without one.

        A counter is set back at a step's end, or just after, or never, or every forward writes over it.
        """
        now = self.counter()
        if now is None or self._before is None:
            return {}
        wide = accumulation_dtype(now.device)
        now, before = now.to(wide), self._before.to(wide)
        after = torch.zeros_like(before) if self._after is None else self._after.to(wide)
        grew = (now >= before).all() & (now.sum() > before.sum())
        kept = (before >= after).all()
        outside = torch.where(kept, (before - after).sum(), before.sum())
        return {
            "counter": torch.where(grew, now - before, now),
            "counter_before": torch.where(grew, outside, torch.zeros_like(outside)),
        }

    def read(self) -> dict[str, Tensor]:
        """Numbers of the end of a step, before the optimiser moves."""
        found = self.counted()
        if (bias := self.bias()) is not None:
            found["bias"] = bias
        parameters = [p for p in self._router.module.parameters() if not _sharded(p)]
        if parameters:
            found["router_state"] = _fingerprint(parameters)
        gradients = [p.grad for p in parameters if p.grad is not None]
        if gradients:
            squares = [g.detach().float().square().sum() for g in gradients]
            found["router_gradient"] = torch.stack(squares).sum().sqrt()
        if (norm := self._expert_norm()) is not None:
            found["expert_norm"] = norm
        return found

    @property
    def trained(self) -> bool:
        """Whether any parameter of the router asks for a gradient."""
        return any(p.requires_grad for p in self._router.module.parameters())

    def _expert_norm(self) -> Tensor | None:
        """`[expert]` smallest weight of each expert, each relative to the median expert's."""
        experts, number = self._router.experts, self._router.num_experts
        if experts is None:
            return None
        rows = []
        if isinstance(experts, nn.ModuleList) and len(experts) == number:
            named = [dict(expert.named_parameters()) for expert in experts]
            for name, value in named[0].items():
                if value.ndim > 1 and all(name in each for each in named):
                    rows.append([each[name] for each in named])
        else:
            stacked = [p for p in experts.parameters() if p.ndim == 3 and p.shape[0] == number]
            rows = [list(p.detach().unbind(0)) for p in stacked if not _sharded(p)]
        relative = []
        for row in rows:
            if any(_sharded(w) for w in row):
                return None
            norms = torch.stack([w.detach().float().square().sum().sqrt() for w in row])
            median = norms.median()
            relative.append(torch.where(median > 0, norms / median, torch.ones_like(norms)))
        return torch.stack(relative).amin(0) if relative else None


def _copy(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.clone()


def _sharded(value: Tensor) -> bool:
    """A piece of a distributed tensor: reading its norm would start a collective."""
    return type(value).__name__ == "DTensor" or hasattr(value, "_local_tensor")


def _fingerprint(parameters: list[nn.Parameter]) -> Tensor:
    """Two numbers that change with any of the values."""
    total = []
    for parameter in parameters:
        flat = parameter.detach().flatten().to(accumulation_dtype(parameter.device))
        wave = torch.arange(len(flat), device=flat.device, dtype=flat.dtype).cos()
        total.append(torch.stack([flat.square().sum(), (flat * wave).sum()]))
    return torch.stack(total).sum(0)


def accumulation_dtype(device: torch.device) -> torch.dtype:
    """float64 holds every count; float32, on devices without it, those below 16.7 million."""
    return torch.float32 if device.type == "mps" else torch.float64
