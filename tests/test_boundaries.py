"""mfgjax never imports torch, the extractor never imports jax: by reading, and by running."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FORBIDDEN = {
    "mfgjax": {"torch", "transformers", "mfgjax_extract"},
    "extract/mfgjax_extract": {"jax", "jaxlib", "mfgjax", "equinox"},
}


def imported_names(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN.items())
def test_no_file_names_the_other_side(package, forbidden):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for path in files:
        assert not imported_names(path) & forbidden, path


AT_FIRST = {
    "mfgjax": """
import mfgjax
assert set(mfgjax.__all__) == set(dir(mfgjax))
assert not {'jax', 'numpy', 'importlib.metadata'} & set(sys.modules)
for name in mfgjax.__all__:
    assert getattr(mfgjax, name) is getattr(mfgjax, name), name
from mfgjax import *
assert Game is mfgjax.game.Game and track is mfgjax.track
assert solve_equilibrium is mfgjax.equilibrium.solve_equilibrium
try: mfgjax.nonesuch
except AttributeError as error: assert 'nonesuch' in str(error)
else: raise AssertionError
"""
}
"""Run in the same new process, before its modules: top-level names come when they are asked for."""


@pytest.mark.parametrize(("package", "forbidden"), FORBIDDEN.items())
def test_every_module_loads_without_the_other_side(package, forbidden):
    folder = ROOT / package
    modules = [
        ".".join((folder.name, *path.relative_to(folder).with_suffix("").parts))
        for path in folder.rglob("*.py")
        if path.stem not in ("__init__", "__main__")
    ]
    # A finder that refuses, not None in sys.modules: other libraries look there for what is loaded.
    code = (
        "import sys, importlib\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {sorted(forbidden)!r}:\n"
        "            raise ModuleNotFoundError(f'{name} belongs to the other side', name=name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        f"{AT_FIRST.get(package, '')}"
        f"for name in {sorted(modules)!r}: importlib.import_module(name)\n"
        f"assert not set({sorted(forbidden)!r}) & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_every_subpackage_is_a_top_level_name():
    import mfgjax

    packages = {path.parent.name for path in (ROOT / "mfgjax").glob("*/__init__.py")}
    assert packages - set(mfgjax.__all__) == {
        *("bundled", "cli", "doctor", "engines", "numerics"),
        *(
            "dynamics",
            "metrics",
            "token_types",
        ),  # read through `track` and `analyze`: no names of their own
    }


def test_public_names_are_those_that_docs_notebooks_or_commands_use():
    """What only the package, its tests and its benchmarks use is taken from its module."""
    pages = [*ROOT.glob("docs/*.md"), *ROOT.glob("docs/how-to/*.md"), ROOT / "README.md"]
    code = [*ROOT.glob("notebooks/*.py"), *ROOT.glob("mfgjax/cli/*.py")]
    used = {word for path in [*pages, *code] for word in re.findall(r"\w+", path.read_text())}
    names = {
        f"{path.parent.name}.{value}"
        for path in [
            *ROOT.glob("mfgjax/*/__init__.py"),
            ROOT / "extract/mfgjax_extract/__init__.py",
        ]
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        for value in ast.literal_eval(node.value)
    }
    assert len(names) > 50
    assert {name for name in names if name.split(".")[1] not in used} == set()


def test_both_packages_have_one_folder_of_engines():
    link, folder = ROOT / "mfgjax/engines", ROOT / "extract/mfgjax_extract/engines"
    assert link.is_symlink() and link.resolve() == folder.resolve()
    files = list(folder.glob("*.py"))
    assert len(files) > 5
    either = set().union(*FORBIDDEN.values())  # what one package imports, the other may not have
    for path in files:
        assert not imported_names(path) & either, path
