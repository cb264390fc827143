"""The arms' rules by name; each file holds rules of one kind."""

from mfgjax.lab.rule import Rule
from mfgjax.lab.rules import auxiliary, bias, capacity, dual, expert_choice, hold, plain

RULES: dict[str, Rule] = {
    "none": plain.NONE,
    "auxiliary": auxiliary.AUXILIARY,
    "auxiliary-micro": auxiliary.AUXILIARY_MICRO,
    "auxiliary-pooled": auxiliary.AUXILIARY_POOLED,
    "auxiliary-pooled-micro": auxiliary.AUXILIARY_POOLED_MICRO,
    "z-loss": auxiliary.Z_LOSS,
    "simbal": auxiliary.SIMBAL,
    "sign": bias.SIGN,
    "proportional": bias.PROPORTIONAL,
    "smebu": bias.SMEBU,
    "leaky": bias.LEAKY,
    "quantile": dual.QUANTILE,
    "bip": dual.BIP,
    "sinkhorn": dual.SINKHORN,
    "expert-choice": expert_choice.EXPERT_CHOICE,
    "expert-threshold": expert_choice.EXPERT_THRESHOLD,
    "capacity": capacity.CAPACITY,
    "hash": plain.HASH,
    "random": plain.RANDOM,
    "hold-violation": hold.HOLD_VIOLATION,
    "hold-congestion": hold.HOLD_CONGESTION,
    "hold-alpha": hold.HOLD_ALPHA,
}
