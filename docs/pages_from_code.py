"""Pages that the code writes itself: what each command's `--help` prints, and the notebooks."""

import shutil
from pathlib import Path

from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from mfgjax.cli.main import app as mfgjax_app

HERE = Path(__file__).parent
INTRODUCTION = """# Commands

What `--help` prints, for every command. Shell completion: `mfgjax --install-completion`.
"""


def write_commands(page: Path) -> None:
    """The help of `mfgjax` and of each of its commands."""
    runner = CliRunner(env={"COLUMNS": "96", "TERM": "dumb", "NO_COLOR": "1"})
    parts = [INTRODUCTION]
    group = get_command(mfgjax_app)
    assert isinstance(group, TyperGroup)
    for name in ["", *group.commands]:
        arguments = [name, "--help"] if name else ["--help"]
        shown = runner.invoke(mfgjax_app, arguments, prog_name="mfgjax")
        text = "\n".join(line.rstrip() for line in shown.output.strip().splitlines())
        title = f"## {name}\n\n" if name else ""
        parts.append(f"{title}```text\n$ mfgjax {' '.join(arguments)}\n\n{text}\n```\n")
    page.write_text("\n".join(parts))


def copy_notebooks(folder: Path) -> None:
    """The notebooks beside the pages: sphinx reads only what lies in its own folder."""
    folder.mkdir(exist_ok=True)
    for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
        shutil.copy(notebook, folder / notebook.name)


def setup(app):
    write_commands(HERE / "commands.md")
    copy_notebooks(HERE / "notebooks")
    return {"parallel_read_safe": True}
