"""The price of each expert: its slope on the load, beside the game of tokens and the mean field."""

from typing import TYPE_CHECKING

from mfgjax.report.price_rows import NO_PRICE, price_rows
from mfgjax.report.section import Section, Table

if TYPE_CHECKING:
    from mfgjax.report.inputs import Inputs

TITLE = "Congestion of the price, of tokens, and of the mean field"
NOTE = (
    "price_slope: of the revealed price on the load, with its interval. token_congestion: the gamma at which "
    "top-K(score - gamma load) gives the load. mean_field: signed congestion, its null not taken off."
)
SHOWN = (
    "checkpoint",
    "layer",
    "price_slope",
    "explained",
    "price_spread",
    "token_congestion",
    "mean_field",
    "note",
)


def section(inputs: "Inputs") -> Section | None:
    """Where traces hold tokens or choice bounds, and the rule of the choice is known."""
    rows = price_rows(inputs.traces, inputs.dataset, stream=inputs.stream)
    if rows is None:
        return None
    last = rows[rows.checkpoint == rows.checkpoint.iloc[-1]]
    acts = last[last.note != NO_PRICE]
    verdict = f"At the last checkpoint a price acts on the choice, beside the logits, in {len(acts)} of {len(last)} layers."
    return Section("Price", verdict=(verdict,), tables=(Table("price", TITLE, rows, NOTE, SHOWN),))
