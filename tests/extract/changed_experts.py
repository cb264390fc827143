"""Which experts serve a token, found out by changing experts and looking at the block's output."""

import torch

ROWS = 12
IDENTITY_EXPERTS = {"longcat_flash": 8, "zaya": 8}
"""First index of experts that have no weights: identity experts and the skip class."""


def replay(block, args, kwargs):
    """One `[token, feature]` output of the block around a router."""
    out = block(*args, **kwargs)
    out = out[0] if isinstance(out, tuple) else out
    return out.reshape(ROWS, -1)


def parent_of(model, path):
    return model.get_submodule(path.rpartition(".")[0])


def served_by(layer, experts):
    """Which tokens the recorded routing sends to any of `experts`."""
    served = torch.isin(layer.choices, torch.tensor(experts))
    if layer.dispatched is not None:
        served &= layer.dispatched
    return served.any(-1)


def change_experts(owner, experts, count, is_experts):
    """Change all weights of some experts of `owner`; returns how to undo it."""
    before = {n: p.detach().clone() for n, p in owner.named_parameters()}
    if isinstance(owner, torch.nn.ModuleDict | torch.nn.ModuleList):
        modules = list(owner.children())
        chosen = [p for e in experts for p in modules[e].parameters()]
    else:
        stacks = [p for p in owner.parameters() if p.ndim == 3 or (is_experts and p.ndim == 2)]
        chosen = [p.view(count, -1)[e] for p in stacks for e in experts]
    for p in chosen:
        p += 1 + torch.rand_like(p)

    def undo():
        for name, p in owner.named_parameters():
            p.copy_(before[name])

    return undo


def check_choices(family, model, inputs, router, layer):
    """Change three sets of experts: exactly the tokens recorded as served by them change."""
    block = parent_of(model, router.path)
    if "gemma" in family:
        block = router.experts  # the parent is the whole decoder layer
    seen = {}
    handle = block.register_forward_pre_hook(
        lambda _m, args, kwargs: seen.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    with torch.no_grad():
        model(**inputs)
        handle.remove()
        before = replay(block, **seen)
        count = router.num_experts
        owner = block if router.experts is None else router.experts
        real = IDENTITY_EXPERTS.get(family, count)
        for bit in range(3):
            experts = [e for e in range(real) if e >> bit & 1]
            undo = change_experts(owner, experts, min(count, real), router.experts is not None)
            changed = (replay(block, **seen) != before).any(-1)
            undo()
            assert changed.tolist() == served_by(layer, experts).tolist()
