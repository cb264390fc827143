"""One analysis for the tests of its tables and of its page."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.trace import TokenTrace, read_trace, write_trace


@pytest.fixture(scope="session")
def analyzed(sweep_folder, tmp_path_factory):
    """The simulated sweep with token logits of its last checkpoint, analysed by the command."""
    folder = tmp_path_factory.mktemp("traces")
    for path in sweep_folder.glob("*.safetensors"):
        shutil.copy(path, folder)
    rng = np.random.default_rng(5)
    for step in (3000, 6000):
        metadata = read_trace(folder / f"step{step}.statistics.safetensors").metadata
        text = np.repeat(np.arange(metadata.text_count, dtype=np.int32), 60)
        quality = 0.3 * rng.standard_normal((3, metadata.experts))[: len(metadata.layers)]
        noise = rng.standard_normal((len(text), len(metadata.layers), metadata.experts))
        logits = (quality + 2 * noise).astype(np.float32)
        choices = np.argsort(-logits, axis=-1)[..., : metadata.top_k].astype(np.uint8)
        fields = {f: getattr(metadata, f) for f in metadata.__dataclass_fields__}
        tokens = TokenTrace(type(metadata)(**(fields | {"kind": "tokens"})), logits, choices, text)
        write_trace(folder / f"step{step}.tokens.safetensors", tokens)
    out = tmp_path_factory.mktemp("analysis")
    words = ["analyze", str(folder), "--out", str(out), "--resamples", "30", "--types", "2"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    return out
