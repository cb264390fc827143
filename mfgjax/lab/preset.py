"""What a lab trains, as data: `presets/*.json`, or a file of your own.

    {"about": "...", "shape": {"experts": 16, ...}, "plan": {"steps": 300, ...}, "seeds": 3, "held_out": 16,
     "traces": 6, "arms": [{"rule": "none"}, {"rule": "leaky", "congestion": [5, 20, 80]}]}

A setting with several values makes an arm of each. `shape` and `plan` take the fields of `Shape` and `Plan`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

from mfgjax.lab.model import Shape
from mfgjax.lab.rule import Rule
from mfgjax.lab.train import Plan

FOLDER = Path(__file__).parent / "presets"


@dataclasses.dataclass(frozen=True)
class Arm:
    """One rule at one setting.

    Attributes:
        name: of the rule, and what is set by hand: `leaky-congestion=20`.
        rule: its name.
        settings: those that differ from the rule's defaults.
    """

    name: str
    rule: str
    settings: tuple[tuple[str, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Preset:
    """Attributes:
    shape, plan: of every model.
    arms: what is compared.
    seeds: runs of each arm; the k-th of every arm has the same first weights and data.
    held_out: windows of each domain that models are measured on.
    traces: checkpoints whose routing is traced, evenly spaced, the first and last step included.
    about: one line.
    """

    shape: Shape
    plan: Plan
    arms: tuple[Arm, ...]
    seeds: int
    held_out: int
    traces: int
    about: str = ""

    def to_json(self) -> dict[str, Any]:
        """As data that `preset_of` reads."""
        fields = dataclasses.asdict(self)
        arms = [{"rule": arm.rule, **dict(arm.settings)} for arm in self.arms]
        return fields | {"arms": arms}


def preset_names() -> list[str]:
    """Presets that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read_preset(name: str, rules: Mapping[str, Rule]) -> Preset:
    """A preset by its name or the path of a JSON file. Raises `ValueError`."""
    path = FOLDER / f"{name}.json" if name in preset_names() else Path(name)
    if not path.is_file():
        raise ValueError(
            f"no preset {name!r}: there are {', '.join(preset_names())}, or name a JSON file"
        )
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON ({error})") from None
    return preset_of(content, rules, str(path))


def preset_of(content: Any, rules: Mapping[str, Rule], source: str) -> Preset:
    """A preset from its data.

    Raises:
        ValueError: an unknown field, rule or setting, a number out of range; names `source`.
    """
    try:
        fields = dict(content)
        arms = tuple(arm for line in fields.pop("arms") for arm in _arms(line, rules))
        shape, plan = Shape(**fields.pop("shape", {})), Plan(**fields.pop("plan", {}))
        preset = Preset(shape=shape, plan=plan, arms=arms, **fields)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{source}: not a preset of the lab ({error})") from None
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    for name, least in (("seeds", 1), ("held_out", 1), ("traces", 2)):
        value = getattr(preset, name)
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{source}: {name} is {value!r}; a whole number from {least} expected")
    twice = {arm.name for arm in arms if sum(arm.name == other.name for other in arms) > 1}
    if twice or not arms:
        raise ValueError(
            f"{source}: {'no arms' if not arms else 'an arm is there twice: '}{', '.join(twice)}"
        )
    return preset


def _arms(line: dict[str, Any], rules: Mapping[str, Rule]) -> list[Arm]:
    settings = dict(line)
    name = settings.pop("rule")
    if name not in rules:
        raise ValueError(f"no rule {name!r}; there are {', '.join(rules)}")
    unknown = set(settings) - set(rules[name].settings)
    if unknown:
        raise ValueError(
            f"rule {name!r} has no setting {', '.join(sorted(unknown))}; it has "
            f"{', '.join(rules[name].settings) or 'none'}"
        )
    doses = [value if isinstance(value, list) else [value] for value in settings.values()]
    arms = []
    for values in product(*doses):
        arms.append(named_arm(name, dict(zip(settings, values, strict=True))))
    return arms


def arms_named(preset: Preset, names: Sequence[str]) -> tuple[Arm, ...]:
    """Arms of a preset that have one of the names, or a rule that has.

    Raises:
        ValueError: a name that no arm has.
    """
    every = preset.arms
    unknown = set(names) - {arm.name for arm in every} - {arm.rule for arm in every}
    if unknown:
        raise ValueError(
            f"the preset has no arm {', '.join(sorted(unknown))}; it has "
            f"{', '.join(arm.name for arm in every)}"
        )
    return tuple(arm for arm in every if arm.name in names or arm.rule in names)


def named_arm(rule: str, settings: Mapping[str, Any]) -> Arm:
    """An arm with the name that says its rule and settings."""
    pairs = tuple((key, float(value)) for key, value in settings.items())
    return Arm(rule + "".join(f"-{key}={value:g}" for key, value in pairs), rule, pairs)
