"""What counts as done: the same weights and settings, whatever the files' names and times say."""

import os
import shutil
import subprocess
import sys

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from mfgjax_extract.cli import app
from mfgjax_extract.source import NOTES
from mfgjax_extract.trace_file import content_digest, read_metadata


def run(*args):
    return CliRunner().invoke(app, [str(a) for a in args])


@pytest.fixture(scope="module")
def original(run_folder, texts_file, tmp_path_factory):
    """A checkpoint and its traces."""
    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(run_folder / "step0-tokens0", folder / "model")
    args = (folder / "model", "--texts", texts_file, "--out", folder / "traces")
    assert run(*args).exit_code == 0
    return folder


@pytest.fixture
def one(original, tmp_path):
    shutil.copytree(original, tmp_path / "copy")
    return tmp_path / "copy"


def extract(one, texts_file, *more):
    return run(one / "model", "--texts", texts_file, "--out", one / "traces", *more)


def change_one_router(model):
    path = model / "model.safetensors"
    times = path.stat()
    weights = load_file(path)
    weights["model.layers.1.mlp.gate.weight"][0, 0] += 1.0
    save_file(weights, path, {"format": "pt"})
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert path.stat().st_size == times.st_size


def test_changed_weights_under_the_same_name_are_refused(one, texts_file):
    assert extract(one, texts_file).output.count("done before") == 1
    change_one_router(one / "model")
    refused = extract(one, texts_file)
    assert refused.exit_code == 2
    assert "was made from other weights under the same name" in refused.stderr
    before = content_digest(one / "traces" / "main.tokens.safetensors")
    assert extract(one, texts_file, "--overwrite").exit_code == 0
    assert content_digest(one / "traces" / "main.tokens.safetensors") != before


def test_a_copy_of_the_weights_and_lost_notes_are_still_done(one, texts_file):
    weights = one / "model" / "model.safetensors"
    shutil.copy(weights, one / "moved")
    os.replace(one / "moved", weights)
    (one / "model" / "trainer_state.json").write_text("{}")  # no load reads it
    assert "done before" in extract(one, texts_file).output
    shutil.rmtree(one / "traces" / NOTES)
    assert "done before" in extract(one, texts_file).output


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (("--logit-dtype", "float32"), "logit_dtype = 'float16'"),
        (("--dtype", "bfloat16"), "requested_dtype = 'auto'"),
        (("--layers", "1"), "layers_pattern = ''"),
    ],
)
def test_other_settings_are_refused(one, texts_file, option, name):
    refused = extract(one, texts_file, *option)
    assert refused.exit_code == 2 and name in refused.stderr


def test_a_mismatch_is_told_before_any_model_is_loaded(run_folder, texts_file, tmp_path):
    late = ("--revisions", "step80-*", "--statistics-only")
    args = (run_folder, "--texts", texts_file, "--out", tmp_path)
    assert run(*args, *late).exit_code == 0
    assert run(*args, "--max-tokens", 3).exit_code == 2
    assert not list(tmp_path.glob("step0-*"))


def test_what_is_done_needs_no_torch(one, texts_file):
    args = [
        str(one / "model"),
        "--texts",
        str(texts_file),
        "--out",
        str(one / "traces"),
        "--verify",
    ]
    code = (
        "import sys\n"
        "from mfgjax_extract.cli import app\n"
        f"try: app({args!r})\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'transformers', 'safetensors'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "main: done before" in done.stderr


def test_verify_reads_what_is_done(one, texts_file):
    path = one / "traces" / "main.tokens.safetensors"
    metadata = read_metadata(path)
    assert metadata["content_digest"] == content_digest(path)
    assert metadata["source"].startswith("sha256:")
    content = bytearray(path.read_bytes())
    content[-200:-100] = bytes(100)
    path.write_bytes(content)
    assert "done before" in extract(one, texts_file).output
    told = extract(one, texts_file, "--verify")
    assert told.exit_code == 2 and "its tensors are not what was written" in told.stderr
