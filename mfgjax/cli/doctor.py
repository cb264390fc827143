"""`mfgjax doctor`: does it work on this machine."""

import dataclasses

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from mfgjax.cli.console import show, show_json
from mfgjax.cli.failures import FAILED
from mfgjax.cli.options import AsJson, Quiet


def doctor(as_json: AsJson = False, quiet: Quiet = False) -> None:
    """Devices, versions, precision, memory; and a self-test against independent methods.

    Solves small games and compares them with a bisection by scipy: every
    error must lie within its certificate. Exit code 1 if a check fails.

    [bold]Examples[/]

      mfgjax doctor
      mfgjax doctor --json > doctor.json    (to attach to a report)
    """
    # Imported late, so that --help does not wait for jax.
    from mfgjax.doctor.environment import inspect_environment
    from mfgjax.doctor.self_test import run_self_test

    environment = inspect_environment()
    checks = run_self_test()
    passed = all(check.passed for check in checks)
    if as_json:
        found = {"ok": passed, "checks": [dataclasses.asdict(check) for check in checks]}
        show_json(found | {"environment": dataclasses.asdict(environment)})
    else:
        for line in _lines(environment):
            show(line)
        show(_table(checks))
        for line in environment.advice:
            show(f"- {line}")
        for check in checks:
            if not check.passed:
                show(f"- {check.name} failed: {check.advice}")
    if not passed:
        raise typer.Exit(FAILED)


def _lines(environment) -> list[str]:
    def listed(versions):
        return ", ".join(f"{name} {value or 'absent'}" for name, value in versions.items())

    def size(count):
        return "memory not reported" if count is None else f"{count / 1e9:.1f} GB"

    devices = [f"{d['platform']}: {d['kind']}, {size(d['memory'])}" for d in environment.devices]
    precision = environment.matmul_precision or "the device's own"
    settings = " ".join(f"{name}={value}" for name, value in environment.settings.items())
    return [
        f"versions   {listed(environment.versions)}",
        f"optional   {listed(environment.optional)}",
        f"devices    {'; '.join(devices)}",
        f"memory     {size(environment.host_memory)} on the host",
        f"precision  float64 {'on' if environment.x64 else 'off'} by default (JAX_ENABLE_X64); "
        f"float32 products: {precision}",
        f"settings   {settings or 'none'}",
    ]


def _table(checks) -> Table:
    table = Table("", "self-test", "found", box=SIMPLE_HEAD, padding=(0, 1))
    for check in checks:
        table.add_row("ok" if check.passed else "FAILED", check.name, check.found)
    return table
