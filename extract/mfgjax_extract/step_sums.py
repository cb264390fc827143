"""Sums of one training step on the device: added up per forward, copied to the host once.

Nothing here waits for the device before `StepSums.fetch`: no boolean indexing, no `bincount`, no look
at a value. What is summed, and why, is said by `mfgjax.monitor.sums`, which takes the result.

Which balancing acts is read off the gradient at the logits of experts that were not chosen. The task's gradient at
such a logit is `w_tj c_t`, with w the derivative of the score and one number per token: what differs between
unchosen experts of a token is the auxiliary loss alone. The sums are those of `mfgjax.monitor.sums.GradientSums`,
where the derivation is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from mfgjax_extract.router_state import RouterState, accumulation_dtype
from mfgjax_extract.routers import Router
from mfgjax_extract.tap import LayerRouting, Routing

TERMS = (
    *("terms", "square", "own", "pooled", "both"),
    *("own_gradient", "pooled_gradient", "raw", "raw_gradient"),
)


@dataclass
class _Batch:
    """What the gradient of one layer and micro-batch is compared with, kept until backward."""

    logits: Tensor
    choices: Tensor
    kept: Tensor
    sigmoid: bool


class StepSums:
    """Sums over the forwards of one optimiser step, one row per router.

    Args:
        routers, states: what is watched.
        scaler: of the loss, whose scale is taken off the gradients.

    Attributes:
        forwards: how many were added.
        aux_loss: sum of the balancing losses that the model returned; None if it returned none.
    """

    def __init__(
        self,
        routers: list[Router],
        states: list[RouterState],
        scaler: torch.amp.GradScaler | None = None,
    ):
        self._scaler = scaler
        self._scale: Tensor | None = None
        self.forwards = 0
        self.aux_loss: Tensor | None = None
        self._routers = routers
        self._states = states
        self._sums: list[dict[str, Tensor]] = [{} for _ in routers]
        self._top_k = [0] * len(routers)
        self._seen_gradient = [False] * len(routers)

    def add(self, routing: Routing) -> None:
        """Add one forward, and wait for the gradient at its logits."""
        self.forwards += 1
        if routing.aux_loss is not None:
            loss = routing.aux_loss.to(accumulation_dtype(routing.aux_loss.device))
            self.aux_loss = loss if self.aux_loss is None else self.aux_loss + loss
        batches, loads = [], []
        for place, layer in enumerate(routing.layers):
            mask = routing.encoder_mask if self._routers[place].in_encoder else routing.mask
            batch, found = _sums_of(layer, mask, self._states[place].bias())
            for name, value in found.items():
                old = None if name == "last_count" else self._sums[place].get(name)
                self._sums[place][name] = value if old is None else old + value
            self._top_k[place] = layer.choices.shape[1]
            batches.append(batch)
            loads.append(found["count"] / found["count"].sum().clamp(min=1))
        alike = len({load.shape for load in loads}) == 1
        for place, layer in enumerate(routing.layers):
            if layer.attached is not None:
                pooled = torch.stack(loads).mean(0) if alike else loads[place]
                self._await_gradient(place, layer.attached, batches[place], loads[place], pooled)

    def _await_gradient(
        self, place: int, attached: Tensor, batch: _Batch, own: Tensor, pooled: Tensor
    ) -> None:
        self._seen_gradient[place] = True
        sums = self._sums[place]

        def receive(gradient: Tensor) -> None:
            wide = gradient.reshape(batch.logits.shape).to(batch.logits.dtype)
            scale = None if self._scaler is None else self._scaler.scale(wide.new_ones(()))
            found = gradient_sums(
                wide if scale is None else wide / scale,
                *(batch.logits, batch.choices, batch.kept, own, pooled),
                sigmoid=batch.sigmoid,
            )
            if (
                scale is not None
            ):  # it fell: the step before was skipped, and this is not all of one
                self._scale = scale if self._scale is None else self._scale
                found = torch.where(scale == self._scale, found, torch.nan)
            sums["gradient"] = sums["gradient"] + found if "gradient" in sums else found

        attached.register_hook(receive)

    def pack(self) -> tuple[Tensor, list[list[tuple[str, int]]]]:
        """All sums as one vector, and the names and lengths of its pieces, by layer."""
        pieces, names = [], []
        for sums, seen in zip(self._sums, self._seen_gradient, strict=True):
            found = dict(sums)
            if seen:  # no gradient arrived at a layer that the loss does not depend on
                found.setdefault("gradient", torch.zeros(len(TERMS), device=sums["count"].device))
            pieces += [value.reshape(-1) for value in found.values()]
            names.append([(name, value.numel()) for name, value in found.items()])
        device = pieces[0].device
        wide = accumulation_dtype(device)
        return torch.cat([p.to(device, wide) for p in pieces]), names

    @property
    def top_k(self) -> list[int]:
        """Experts per token, by router."""
        return self._top_k


def _sums_of(
    layer: LayerRouting, mask: Tensor | None, bias: Tensor | None
) -> tuple[_Batch, dict[str, Tensor]]:
    device = layer.logits.device
    wide = accumulation_dtype(device)
    rows, experts = layer.logits.shape
    kept = torch.ones(rows, dtype=torch.bool, device=device) if mask is None else mask
    choices = layer.choices.to(torch.int64)
    usable = kept & torch.isfinite(layer.logits).all(-1)
    z = torch.where(usable[:, None], layer.logits, torch.zeros_like(layer.logits)).to(wide)
    weight = usable.to(wide)
    probability = z.softmax(-1)
    log_sum = z.logsumexp(-1)
    within = (choices >= 0) & (choices < experts)

    def count(chosen_by: Tensor) -> Tensor:
        each = (chosen_by[:, None] & within).flatten().to(torch.int64)
        place = choices.clamp(0, experts - 1).flatten()
        return torch.zeros(experts, dtype=torch.int64, device=device).scatter_add_(0, place, each)

    counted = count(kept)
    like = (z >= 0).all(-1) & ((z.sum(-1) - 1).abs() < 1e-2) & usable
    found = {
        "tokens": kept.sum(),
        "count": counted,
        "last_count": counted,
        "padding": count(~kept),
        "logit_sum": z.sum(0),
        "centred_square_sum": (z - z.mean(-1, keepdim=True)).square().sum(),
        "probability_sum": weight @ probability,
        "lse_square_sum": (weight * log_sum.square()).sum(),
        "broken": (kept & ~usable).sum(),
        "like_probabilities": like.sum(),
    }
    sigmoid = (layer.scoring or "").startswith("sigmoid")
    if bias is not None:
        found |= _of_choices(layer, choices, kept)
        score = z.sigmoid() if sigmoid else probability
        found |= _of_weights(layer, z, score, bias.to(wide), choices.clamp(0, experts - 1), weight)
    return _Batch(z, choices.clamp(0, experts - 1), usable, sigmoid), found


def _of_choices(layer: LayerRouting, choices: Tensor, kept: Tensor) -> dict[str, Tensor]:
    """Tokens whose experts are not the router's first: all of them where it ranked nothing."""
    ranked = None if layer.ranked is None else layer.ranked[0].reshape(len(choices), -1)
    if ranked is None or ranked.shape != choices.shape:
        other = torch.ones_like(kept)
    else:
        other = (ranked.to(torch.int64).sort(-1).values != choices.sort(-1).values).any(-1)
    return {"replayed": (other & kept).sum()}


def _of_weights(
    layer: LayerRouting,
    z: Tensor,
    score: Tensor,
    bias: Tensor,
    choices: Tensor,
    weight: Tensor,
) -> dict[str, Tensor]:
    """Distance of the combine weights from the scores, and from the nearest of two with the bias in."""
    if layer.weights is None:
        return {}

    def shares(values: Tensor) -> Tensor:
        if values.shape[-1] == 1:  # one expert: its weight is not relative to others
            return values
        return values / values.sum(-1, keepdim=True).clamp(min=1e-12)

    used = shares(layer.weights.to(z.dtype))

    def distance(values: Tensor) -> Tensor:
        return (used - shares(values.gather(-1, choices))).abs().amax(-1)

    added, inside = distance(score + bias), distance((z + bias).softmax(-1))
    return {
        "weight_error": (weight * distance(score)).sum(),
        "folded_error": torch.minimum((weight * added).sum(), (weight * inside).sum()),
    }


def gradient_sums(
    gradient: Tensor,
    logits: Tensor,
    choices: Tensor,
    kept: Tensor,
    own: Tensor,
    pooled: Tensor,
    *,
    sigmoid: bool,
) -> Tensor:
    """Sums named by `TERMS`, on the device.

    Args:
        gradient: `[token, expert]` of the loss at the logits, as wide as `logits`.
        logits: `[token, expert]`.
        choices: `[token, top_k]`.
        kept: `[token]` False on padding.
        own: `[expert]` load of this layer in this forward, summing to 1.
        pooled: `[expert]` the same of all layers together.
        sigmoid: whether the score is a sigmoid.
    """
    if sigmoid:
        score = logits.sigmoid()
        slope = score * (1 - score) / score.sum(-1, keepdim=True)
    else:
        slope = logits.softmax(-1)
    unchosen = torch.ones_like(logits, dtype=torch.bool).scatter_(-1, choices, False)
    unchosen &= kept[:, None]
    zero = torch.zeros_like(logits)
    w = torch.where(unchosen, slope, zero)
    scale = logits.shape[-1] / kept.sum().clamp(min=1)  # M / T
    norm = w.square().sum(-1, keepdim=True).clamp(min=torch.finfo(w.dtype).tiny)

    def left(values: Tensor) -> Tensor:
        """What the fit of one number per token leaves."""
        return values - w * ((w * values).sum(-1, keepdim=True) / norm)

    g = left(torch.where(unchosen, gradient, zero))
    x, y = left(w * (scale * own)), left(w * (scale * pooled))
    raw = left(torch.where(unchosen, (scale * own).expand_as(w), zero))
    terms = unchosen.sum() - kept.sum()
    sums = [terms, g * g, x * x, y * y, x * y, x * g, y * g, raw * raw, raw * g]
    return torch.stack([s.sum().to(w.dtype) for s in sums])
