"""One grammar: what is said of one command here is said of all of them."""

import inspect
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
import typer
from typer.testing import CliRunner

from mfgjax import __version__
from mfgjax.cli import main

ROOT = Path(__file__).parents[2]
SHARED = [
    "out",
    "objective",
    "quality",
    "stream",
    "resamples",
    "level",
    "seed",
    "memory",
    "as_json",
    "quiet",
]
"""Parameters that commands share, in the order of the help."""
COMMANDS = {
    info.name or info.callback.__name__: info.callback for info in main.app.registered_commands
} | {
    f"{group.typer_instance.info.name} {info.name}": info.callback
    for group in main.app.registered_groups
    for info in group.typer_instance.registered_commands
}


def parameters(command):
    return inspect.signature(COMMANDS[command]).parameters


def declaration(command, name):
    """What typer is told about a parameter: its flags and the type that the help shows."""
    return parameters(command)[name].annotation.__metadata__[0]


def value_type(command, name):
    """What a parameter becomes, where it is given."""
    kind = parameters(command)[name].annotation.__origin__
    return set(get_args(kind)) - {type(None)} or {kind}


@pytest.mark.parametrize("command", COMMANDS)
class TestEveryCommand:
    def test_help_has_an_example(self, command):
        shown = CliRunner().invoke(main.app, [*command.split(), "--help"])
        assert shown.exit_code == 0
        assert "Example" in shown.output
        assert f"mfgjax {command}" in shown.output

    def test_help_keeps_its_lines_and_indents_in_eighty_columns(self, command):
        rest = inspect.getdoc(COMMANDS[command]).split("\n\n", 1)[1]
        plain = inspect.cleandoc(re.sub(r"\[(?:/|[a-z]+)\]", "", rest)).splitlines()
        assert max(map(len, plain)) <= 78
        assert not [line for line in plain if line.startswith(f"mfgjax {command}")]

    def test_speaks_to_machines_and_keeps_quiet_when_told(self, command):
        assert {"as_json", "quiet"} <= set(parameters(command))

    def test_shared_options_come_last_in_one_order(self, command):
        names = [n for n, p in parameters(command).items() if p.default is not p.empty]
        shared = [name for name in SHARED if name in names]
        assert names[len(names) - len(shared) :] == shared

    def test_shared_options_have_one_name_and_one_type(self, command):
        for name in set(SHARED) & set(parameters(command)):
            for other in COMMANDS:
                if name in parameters(other):
                    ours, theirs = declaration(command, name), declaration(other, name)
                    assert ours.param_decls == theirs.param_decls
                    assert ours.metavar == theirs.metavar
                    assert value_type(command, name) == value_type(other, name)

    def test_options_say_what_they_are(self, command):
        for name in parameters(command):
            told = declaration(command, name)
            assert told.help and told.help.endswith(".")
            if isinstance(told, typer.models.ArgumentInfo):
                assert told.metavar.isupper()


def flags(command):
    """What may follow a command: its options, as they are parsed."""
    found = typer.main.get_command(main.app)
    for word in command.split():
        found = found.commands[word]
    return {flag for option in found.params for flag in option.opts} | {"--help", "-h"}


def test_command_lines_of_docs_and_help_use_options_that_there_are():
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("notebooks/*.py")]
    made = "commands.md"  # of the help, by the build of the docs
    texts = {path.name: path.read_text() for path in pages if path.name != made}
    texts |= {name: inspect.getdoc(function) for name, function in COMMANDS.items()}
    seen = set()
    for where, text in texts.items():
        for line in re.findall(r"(?:^|`|&& ?)[ ]*mfgjax ([^`\n|&#]+)", text, re.MULTILINE):
            words = line.replace("[dim]", "").split()
            command = " ".join(words[:2]) if " ".join(words[:2]) in COMMANDS else words[0]
            used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            told = command in COMMANDS or not used or not words[0][0].islower()
            assert told, (where, line)
            if command in COMMANDS:
                assert used <= flags(command), (where, line)
                seen.add(command)
    assert seen == set(COMMANDS)


def test_help_and_version_do_not_wait_for_jax():
    code = (
        "import sys\n"
        "from mfgjax.cli.main import app\n"
        "try: app(sys.argv[1:], prog_name='mfgjax')\n"
        "except SystemExit: pass\n"
        "assert not {'jax', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "mfgjax demo" in done.stdout


def test_version():
    shown = CliRunner().invoke(main.app, ["--version"])
    assert (shown.exit_code, shown.output) == (0, f"mfgjax {__version__}\n")
