"""Types by k-means against types by likelihood, on texts that neither has seen."""

import dataclasses

import numpy as np

from mfgjax.token_types.fit import fit_types
from mfgjax.token_types.kmeans import centred
from mfgjax.token_types.likelihood import dispatch_of, token_likelihood
from mfgjax.trace import TokenTrace

METHODS = ("k-means", "likelihood")
KMEANS, LIKELIHOOD = range(len(METHODS))


@dataclasses.dataclass(frozen=True)
class HeldOutTypes:
    """Cross-validation by text: every text is held out once.

    Attributes:
        layers: names of the layers.
        types: numbers of types tried.
        fold: fold of each text, `[text]`; a text is predicted by fits on the other folds.
        tokens: tokens of each text, `[text]`.
        dispatch: experts chosen, `[text, layer, expert]`.
        joint: held-out log-likelihood of logits and choices in nats, summed over a text's tokens,
            `[method, number of types, layer, text]`, methods as in `METHODS`.
        choice: the same of the choices given the logits.
        load: predicted load, `[fold, method, number of types, layer, expert]`.
        seen_load: load of the fitting texts, `[fold, layer, expert]`.
        congestion: `[fold, method, number of types, layer]`.
        converged: share of fits that met their tolerance.
    """

    layers: tuple[str, ...]
    types: tuple[int, ...]
    fold: np.ndarray
    tokens: np.ndarray
    dispatch: np.ndarray
    joint: np.ndarray
    choice: np.ndarray
    load: np.ndarray
    seen_load: np.ndarray
    congestion: np.ndarray
    converged: float


def cross_validate_types(
    trace: TokenTrace, types: tuple[int, ...], *, folds: int = 3, seed: int = 0
) -> HeldOutTypes:
    """Fit on all folds but one, predict that one, for every number of types and layer.

    Args:
        trace: one checkpoint, every token.
        types: numbers of types; 1 is the single-type game.
        folds: parts that the texts are dealt into, at random.
        seed: of the folds and of k-means.

    Raises:
        ValueError: fewer texts than folds, or too few tokens.
    """
    count = trace.metadata.text_count
    if not 2 <= folds <= count:
        raise ValueError(f"{folds} folds of {count} texts: 2 <= folds <= texts")
    fold = np.random.default_rng(seed).permutation(np.arange(count) % folds)
    layers, experts = trace.logits.shape[1:]
    dispatch = dispatch_of(trace)
    counts = np.zeros((count, layers, experts))
    np.add.at(counts, trace.text, dispatch)
    logits = centred(trace.logits)

    shape = (len(METHODS), len(types), layers)
    joint, choice = np.zeros((2, *shape, count))
    load, congestion = np.zeros((folds, *shape, experts)), np.zeros((folds, *shape))
    seen, converged = np.zeros((folds, layers, experts)), []
    for part in range(folds):
        inside = fold[trace.text] != part
        chosen = dispatch[inside].sum(0)
        seen[part] = chosen / chosen.sum(-1, keepdims=True)
        held = trace.text[~inside]
        for at, layer in np.ndindex(len(types), layers):
            fit = fit_types(
                logits[inside, layer],
                dispatch[inside, layer],
                types[at],
                most_types=max(types),
                most_tokens=len(logits),
                seed=seed,
            )
            converged.append(fit.converged)
            for method, model in enumerate((fit.kmeans, fit.fitted)):
                own = (method, at, layer)
                rows = logits[~inside, layer], dispatch[~inside, layer]
                found = token_likelihood(model, fit.type_load[method], *rows, np)
                np.add.at(joint[own], held, found.joint)
                np.add.at(choice[own], held, found.joint - found.logits)
                load[(part, *own)] = model.weight @ fit.type_load[method]
                congestion[(part, *own)] = model.congestion
    return HeldOutTypes(
        layers=trace.metadata.layers,
        types=tuple(types),
        fold=fold,
        tokens=np.bincount(trace.text, minlength=count),
        dispatch=counts,
        joint=joint,
        choice=choice,
        load=load,
        seen_load=seen,
        congestion=congestion,
        converged=float(np.mean(converged)),
    )
