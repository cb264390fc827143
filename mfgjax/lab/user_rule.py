"""A rule of the user's own, from a file."""

import dataclasses
import hashlib
import traceback
from pathlib import Path
from types import ModuleType

from mfgjax.lab.rule import Rule


def read_rule(path: Path) -> Rule:
    """`RULE` of a Python file, which is run.

    Raises:
        ValueError: no such file, a file that fails, or one without a `RULE`; names file and line.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such Python file")
    return rule_of(path.read_text(encoding="utf-8"), path)


def rule_of(source: str, path: Path) -> Rule:
    """`RULE` of what a file says, on a machine that may not have it. Raises `ValueError` as `read_rule`."""
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except Exception as error:
        raise ValueError(blame(error, path) or f"{path}: {error}") from None
    rule = getattr(module, "RULE", None)
    if not isinstance(rule, Rule):
        raise ValueError(
            f"{path}: defines no RULE = Rule(...). docs/how-to/lab.md has one to start from."
        )
    return dataclasses.replace(rule, digest=hashlib.sha256(source.encode()).hexdigest())


def blame(error: BaseException, path: Path) -> str | None:
    """What went wrong in the user's file, with its line; None where the error is not from there."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return f"{path}, line {error.lineno}: {error.msg}"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
    if not frames:
        return None
    return f"{path}, line {frames[-1].lineno}: {type(error).__name__}: {error}"
