"""`mfgjax lab` from end to end, and on two processes: the files of a serial one, whatever dies, and what is told."""

import json
import shutil
import sys

import pytest
from typer.testing import CliRunner

from mfgjax.cli import main
from mfgjax.lab.report import read_results
from mfgjax.trace import read_trace

# Of the shape and plan of test_train.py, whose programs it shares.
CONTENT = {
    "shape": {"experts": 6, "top_k": 2, "layers": 1, "width": 16, "hidden": 8},
    "plan": {"steps": 4, "chunk": 2, "batch": 1, "length": 16, "warmup": 1},
    "seeds": 2,
    "held_out": 4,
    "traces": 2,
    "arms": [{"rule": "leaky", "congestion": [5, 50]}],
}
RULES = {
    # a user's own; the first worker that reads it dies
    "killer": """
import multiprocessing, os, pathlib, signal
from mfgjax.lab import Rule, choose
mark = pathlib.Path(__file__).with_suffix(".killed")
if multiprocessing.parent_process() is not None:
    try:
        mark.touch(exist_ok=False)  # of two that read it at once, one
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
def select(logits, state, context):
    return choose(logits, logits / 2, context.top_k)
RULE = Rule(select)
""",
    "bad": """
from mfgjax.lab import Rule, choose
def select(logits, state, context):  # one expert twice
    picked = choose(logits, logits, context.top_k)
    return picked._replace(choices=0 * picked.choices)
RULE = Rule(select)
""",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lab")
    wider = CONTENT | {"arms": [*CONTENT["arms"], {"rule": "expert-choice"}]}
    for name, content in {"tiny": CONTENT, "wider": wider}.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    for name, text in RULES.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def run(folder, out, *more, rules=("killer",), preset="tiny"):
    words = ["lab", "run", "--preset", folder / f"{preset}.json", "--out", out, "--json", *more]
    for name in rules:
        words += ["--rule", folder / f"{name}.py"]
    return CliRunner().invoke(main.app, [str(word) for word in words])


@pytest.fixture(scope="module")
def serial(folder):
    done = run(folder, folder / "serial")
    assert done.exit_code == 0, done.output
    return folder / "serial"


def test_a_lab_from_end_to_end(folder, serial):
    """The serial one, and an arm that comes later."""
    out = folder / "wider"
    shutil.copytree(serial, out)
    done = run(folder, out, preset="wider")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)
    assert len(results["runs"]) == 8
    by_arm = {run["arm"]: run for run in results["runs"] if run["seed"] == 0}
    leaky = "leaky-congestion=5"
    assert by_arm.keys() == {leaky, "leaky-congestion=50", "expert-choice", "killer"}
    assert read_results(out)["runs"] == results["runs"]
    assert "held_out_loss_causal" in by_arm["expert-choice"]
    assert "signed_congestion" not in by_arm["expert-choice"]
    assert by_arm["killer"]["congestion_of_tokens"] == [None]  # its score is not named
    assert len(by_arm[leaky]["masking"][0]) == 6
    shown = CliRunner().invoke(main.app, ["lab", "report", str(out)])
    assert shown.exit_code == 0, shown.output
    assert (out / "report.html").exists()


def test_a_rule_that_was_changed_is_not_taken_for_what_was_run(folder, serial, tmp_path):
    shutil.copy(folder / "tiny.json", tmp_path)
    (tmp_path / "killer.py").write_text(RULES["killer"] + "# changed\n")
    done = run(tmp_path, serial)
    assert done.exit_code == 2
    assert "killer.py as it was before it was changed" in done.output.replace("\n", " ")


def test_traces_of_a_lab_are_tracked(serial):
    traces = serial / "arms/leaky-congestion=5/seed0"
    done = CliRunner().invoke(main.app, ["track", str(traces), "--resamples", "0", "--json"])
    assert done.exit_code in (0, 1), done.output  # 1: an answer that is not certified
    assert "congestion" in done.stdout
    trace = read_trace(next((serial / "arms/killer/seed0").glob("step4-*")))
    assert trace.metadata.routing["selection_score"] == ["unknown"]
    assert trace.choice_bound is None  # what its choices rank is not told


def contents(out):
    files = (path for path in out.rglob("*") if path.is_file() and ".tasks" not in path.parts)
    return {str(path.relative_to(out)): path.read_bytes() for path in files}


def without_bad(results):
    """The same, as if the arm that failed had not been asked for."""
    results["preset"]["arms"] = [a for a in results["preset"]["arms"] if a["rule"] != "bad"]
    del results["rules"]["bad"], results["batches"]["bad-0"]
    return results


def test_files_are_those_of_a_serial_lab_though_a_worker_is_killed_and_an_arm_fails(
    folder, serial, monkeypatch
):
    out = folder / "spread"
    done = run(folder, out, "--on", "local:2", rules=("killer", "bad"))
    assert done.exit_code == 1, done.output
    assert done.stderr.count("its process was killed; tried again (1 of 3)") == 1
    line = "bad-0 (bad): failed: arm bad, seed 0, step 0: the rule chose what is no expert"
    assert done.stderr.replace("\n", " ").count(line) == 1
    assert done.stderr.count("failed") == 1
    results, made, want = json.loads(done.stdout), contents(out), contents(serial)
    assert results["device"] == "cpu: cpu"
    assert made.keys() == want.keys()
    assert len(made) > 3 * 2 * 3  # traces and measures of three arms and two seeds
    for name in made.keys() - {"preset.json", "results.json"}:
        assert made[name] == want[name], name
    assert json.loads(made["results.json"]) == results
    assert without_bad(results) == json.loads(want["results.json"])
    assert without_bad(json.loads(made["preset.json"])) == json.loads(want["preset.json"])

    def none(*_):
        raise AssertionError("an engine for a lab that is done")

    monkeypatch.setattr("mfgjax.engines.engine_for", none)
    again = run(folder, out, "--on", "local:2")
    assert again.exit_code == 0, again.output
    assert again.stderr.count("done before") == 3
    assert contents(out) == made


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--on", "locale:2"], "expected local:N with N from 1"),
        (["--on", "local:0"], "expected local:N with N from 1"),
        (["--on", "local:1", "--per-task", "gpu=x"], "--per-task 'gpu=x': expected gpu=N"),
        (["--per-task", "cpu=1"], "add --on"),
    ],
)
def test_wrong_options_are_exit_code_2(folder, options, words):
    told = run(folder, folder / "options", *options, rules=())
    assert told.exit_code == 2, told.output
    assert words in told.stderr


@pytest.mark.parametrize(("module", "extra"), [("ray", "ray"), ("submitit", "slurm")])
def test_an_engine_whose_package_is_missing_says_what_to_install(
    folder, tmp_path, monkeypatch, module, extra
):
    monkeypatch.setitem(sys.modules, module, None)
    for name in ("ray_tasks", "slurm"):
        monkeypatch.delitem(sys.modules, f"mfgjax.engines.{name}", raising=False)
    told = run(folder, tmp_path, "--on", extra, rules=())
    assert told.exit_code == 1, told.output
    assert f"pip install 'mfgjax[{extra}]'" in told.stderr.replace("\n", " ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("RULE = 1", "defines no RULE"),
        ("x = 1 +", "line 1"),
        ("RULE = nonesuch", "line 1: NameError"),
        (
            "from mfgjax.lab import Rule\ndef select(z, s, c):\n    return z.nonesuch\nRULE = Rule(select)",
            "line 3: AttributeError",
        ),
    ],
)
def test_faults_of_a_users_rule_name_its_line(tmp_path, content, message):
    rule = tmp_path / "mine.py"
    rule.write_text(content)
    args = ["lab", "run", "--preset", "smoke", "--rule", str(rule), "--out", str(tmp_path / "lab")]
    done = CliRunner().invoke(main.app, args)
    assert done.exit_code == 2
    assert message in done.output.replace("\n", " ")
