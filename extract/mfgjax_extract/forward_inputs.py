"""What the inputs of a forward say of its rows: how many, which are padding, of which sequence."""

import inspect
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mfgjax_extract.checks import RoutingError
from mfgjax_extract.routers import Router

IGNORED = -100
"""The label of a position that the loss leaves out, in all of transformers."""


@dataclass(frozen=True)
class ForwardInputs:
    """The tensors of one forward by name.

    Attributes:
        named: from `named_inputs`.
        two_stacks: whether the model is an encoder-decoder.
    """

    named: dict[str, Tensor]
    two_stacks: bool

    @property
    def mask(self) -> Tensor | None:
        """`[row]` bool, False on padding, of the decoder or only stack; None if unknown."""
        if not self.two_stacks:
            return self._mask("")
        made = self._tokens("decoder_") is None  # then the model shifts the labels into its decoder
        labels = self.named.get("labels") if made else None
        if labels is not None and labels.ndim == 2:
            return labels.reshape(-1) != IGNORED
        return self._mask("decoder_")

    @property
    def encoder_mask(self) -> Tensor | None:
        """The same of the encoder of an encoder-decoder."""
        return self._mask("") if self.two_stacks else None

    def rows(self, router: Router) -> int | None:
        """Tokens that reach `router`, or None when the inputs do not say."""
        decoder = self.two_stacks and not router.in_encoder
        tokens = self._tokens("decoder_" if decoder else "")
        if tokens is None and decoder:
            tokens = self.named.get("labels")
        return None if tokens is None else int(tokens.shape[0] * tokens.shape[1])

    @property
    def sequences(self) -> int:
        """Sequences in the forward; 1 if its inputs do not say."""
        for tokens in (self._tokens("decoder_"), self._tokens("")):
            if tokens is not None:
                return int(tokens.shape[0])
        return 1

    def _tokens(self, stack: str) -> Tensor | None:
        """Ids or embeddings, `[sequence, position, ...]`."""
        ids = self.named.get(f"{stack}input_ids")
        return ids if ids is not None else self.named.get(f"{stack}inputs_embeds")

    def _mask(self, stack: str) -> Tensor | None:
        mask, tokens = self.named.get(f"{stack}attention_mask"), self._tokens(stack)
        if mask is None or mask.ndim != 2:
            return None
        if tokens is not None:  # with a cache the mask also covers earlier positions
            mask = mask[:, -tokens.shape[1] :]
        return mask.reshape(-1).bool()


def named_inputs(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors of a forward by name; those given by position as the signature names them.

    Raises:
        RoutingError: several tensors by position, and the signature names none: one of them may
            be the mask, without which padding would be counted.
    """
    named = {**_positional(module, args), **kwargs}
    first = args[0] if args else None
    if isinstance(first, Tensor) and not {"input_ids", "inputs_embeds"} & named.keys():
        if first.ndim == 3 and first.is_floating_point():
            named["inputs_embeds"] = first
        elif first.ndim == 2 and not first.is_floating_point():
            named["input_ids"] = first
    return {k: v for k, v in named.items() if isinstance(v, Tensor)}


def _positional(module: nn.Module, args: tuple) -> dict[str, Any]:
    parameters = inspect.signature(module.forward).parameters.values()
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in kinds]
    if len(names) >= len(args):
        return dict(zip(names, args, strict=False))
    inner = getattr(module, "module", None)  # data-parallel wrappers pass on what they get
    if not names and isinstance(inner, nn.Module):
        return _positional(inner, args)
    if sum(isinstance(value, Tensor) for value in args) > 1:
        raise RoutingError(
            f"{type(module).__name__}.forward names none of its {len(args)} positional inputs, and "
            "one may be the attention mask: pass them by name (attention_mask=...)"
        )
    return {}
