"""Pages that the code writes itself: what each command's `--help` prints, public names, notebooks."""

import inspect
import shutil
from importlib import import_module
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from mfgjax.cli.main import app as mfgjax_app
from mfgjax_extract.cli import app as extract_app

HERE = Path(__file__).parent
OTHERS = ("index", "names", "report", "extractor", "dynamics", "metrics", "token_types")
"""Pages of the reference that are not named after a package with public names (or, as `report`, are of more)."""
INTRODUCTION = """# Commands

What `--help` prints, for every command. Shell completion: `mfgjax --install-completion`,
`mfgjax-extract --install-completion`.
"""


def write_commands(page: Path) -> None:
    """The help of `mfgjax` and `mfgjax-extract`, and of each of their commands."""
    runner = CliRunner(env={"COLUMNS": "96", "TERM": "dumb", "NO_COLOR": "1"})
    parts = [INTRODUCTION]
    for program, app in (("mfgjax", mfgjax_app), ("mfgjax-extract", extract_app)):
        parts.append(f"## {program}\n")
        group = get_command(app)
        assert isinstance(group, TyperGroup)
        inner = [
            f"{name} {own}"
            for name, command in group.commands.items()
            if isinstance(command, TyperGroup)
            for own in command.commands
        ]
        for name in ["", *group.commands, *inner]:
            arguments = [*name.split(), "--help"]
            shown = runner.invoke(app, arguments, prog_name=program)
            text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
            title = f"### {program} {name}\n\n" if name else ""
            parts.append(f"{title}```text\n$ {program} {' '.join(arguments)}\n\n{text}\n```\n")
    page.write_text("\n".join(parts))


def write_names(page: Path) -> None:
    """Every public name in a line, by package, with a link to its entry."""
    parts = ["# All names\n"]
    packages = [
        f"mfgjax.{p.stem}" for p in sorted(page.parent.glob("*.md")) if p.stem not in OTHERS
    ]
    for name in [*packages, "mfgjax_extract"]:
        package = import_module(name)
        parts.append(f"## {name}\n")
        for public in package.__all__:
            value = getattr(package, public)
            if inspect.isclass(value) or inspect.isroutine(value):
                summary = (inspect.getdoc(value) or "").partition("\n")[0]
                parts.append(f"* {{py:obj}}`{public} <{name}.{public}>`: {summary}")
        parts.append("")
    page.write_text("\n".join(parts))


def copy_notebooks(folder: Path) -> None:
    """The notebooks beside the pages: sphinx reads only what lies in its own folder."""
    folder.mkdir(exist_ok=True)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, folder / notebook.name)


def setup(app):
    write_commands(HERE / "commands.md")
    write_names(HERE / "reference" / "names.md")
    copy_notebooks(HERE / "notebooks")
    return {"parallel_read_safe": True}
