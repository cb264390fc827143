"""Does mfgjax work here: what it finds on this machine, and a self-test against other methods."""

from mfgjax.doctor.environment import inspect_environment
from mfgjax.doctor.self_test import run_self_test

__all__ = ["inspect_environment", "run_self_test"]
