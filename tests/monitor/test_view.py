"""What `mfgjax watch` shows, and the names that other frameworks log."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from mfgjax.cli.main import app
from mfgjax.monitor import Monitor, MonitorError, read_logged


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    draw = np.random.default_rng(0)
    with Monitor(folder) as monitor:
        for step in range(0, 300, 100):
            layers = {}
            for name in ("model.layers.0.<gate>", "model.layers.1.gate"):
                count = draw.multinomial(500, np.full(8, 1 / 8))
                broken = int(step == 200 and "1" in name)
                layers[name] = {"tokens": 500, "top_k": 1, "count": count, "broken": broken}
            monitor.observe(step, layers)
    return folder


def test_terminal_json_and_page(run_folder, tmp_path):
    runner = CliRunner()
    shown = runner.invoke(app, ["watch", str(run_folder)])
    assert shown.exit_code == 0, shown.output
    assert "step 200, 3 sampled, alarms: 1" in shown.output
    assert "logits not finite in model.layers.1.gate" in shown.output
    told = json.loads(runner.invoke(app, ["watch", str(run_folder), "--json"]).output)
    assert told["steps"] == [0, 100, 200] and told["alarms"][0]["layer"] == "model.layers.1.gate"
    page = tmp_path / "page.html"
    assert runner.invoke(app, ["watch", str(run_folder), "--html", str(page)]).exit_code == 0
    text = page.read_text()
    assert text.count("<polyline") == 2 and text.count('title="expert') == 16
    assert "&lt;gate&gt;" in text and "<gate>" not in text and "http" not in text
    missing = runner.invoke(app, ["watch", str(tmp_path)])
    assert missing.exit_code == 2


def test_names_of_other_frameworks():
    megatron = {"load_balancing_loss": 1.1, "moe/z_loss_layer_3": 0.2, "lm loss": 2.0}
    assert read_logged(megatron) == {"moe/load_balancing_loss/mean": 1.1, "moe/z_loss/layer_3": 0.2}
    titan = {"layers.2.moe.tokens_per_expert": [30, 10, 0, 0]}
    found = read_logged(titan)
    assert found["moe/max_violation/layer_2"] == 2.0 and found["moe/dead_share/layer_2"] == 0.5
    others = {"moe/max_vio/layer_1": 0.3, "moe/layer_4/dead_expert_frac": 0.1}
    assert read_logged(others) == {"moe/max_violation/layer_1": 0.3, "moe/dead_share/layer_4": 0.1}
    with pytest.raises(MonitorError, match=r"none of \['loss'\]"):
        read_logged({"loss": 1.0})
    with pytest.raises(MonitorError, match="counts of the experts of one layer"):
        read_logged({"layers.2.moe.tokens_per_expert": [-1, 2]})
