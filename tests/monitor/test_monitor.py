"""One run's monitor: the file it keeps, sinks that fail, actions, resume; and the change detector."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import types

import numpy as np
import pytest

from mfgjax.monitor import Fault, Monitor, MonitorError
from mfgjax.monitor.change import LEARNING, Cusum, threshold_of
from mfgjax.monitor.faults import Alarm
from mfgjax.monitor.journal import read_journal
from mfgjax.monitor.sinks import TensorBoard, Trackio, Wandb, Webhook

ALARM = Alarm(3, Fault.BIAS_ROUNDED, "layers.1", "its values have 8 bits")


def sums(uneven=0.0, tokens=2000, broken=0, seed=0, experts=8):
    """One layer whose first expert is `1 + uneven` times as likely as the others."""
    chance = np.ones(experts)
    chance[0] += uneven
    count = np.random.default_rng(seed).multinomial(tokens, chance / chance.sum())
    return {"layer_0": {"tokens": tokens, "top_k": 1, "count": count, "broken": broken}}


class Recorder:
    def __init__(self, fail_at=None):
        self.steps, self.alarms, self.closed, self.fail_at = [], [], False, fail_at

    def scalars(self, step, values):
        if step == self.fail_at:
            raise ConnectionError("no route")
        self.steps.append(step)

    def alarm(self, alarm):
        self.alarms.append(alarm)

    def close(self):
        self.closed = True


def test_numpy_only():
    code = "import sys, mfgjax.monitor\nassert not {'jax', 'torch'} & set(sys.modules)\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_file_goes_on_where_a_run_resumes(tmp_path):
    with Monitor(tmp_path) as monitor:
        for step in range(6):
            monitor.observe(step, sums(seed=step, broken=int(step == 2)))
    with Monitor(tmp_path) as monitor:  # from the checkpoint of step 4
        monitor.observe(4, sums(seed=44))
        assert monitor.alarms == []
    run = read_journal(tmp_path)
    assert [r.step for r in run.records] == [0, 1, 2, 3, 4]
    assert [(a.step, a.fault) for a in run.alarms] == [(2, Fault.LOGITS_NOT_FINITE)]
    np.testing.assert_array_equal(run.records[4].count[0], sums(seed=44)["layer_0"]["count"])


def test_a_resumed_detector_is_where_it_was(tmp_path):
    whole, first, second = Monitor(tmp_path / "a"), Monitor(tmp_path / "b"), Monitor(tmp_path / "b")
    for step in range(LEARNING + 20):
        whole.observe(step, sums(seed=step))
        (first if step < LEARNING + 7 else second).observe(step, sums(seed=step))
    for monitor in (whole, first, second):
        monitor.close()
        assert monitor.alarms == []
    np.testing.assert_array_equal(whole._change.sum, second._change.sum)
    np.testing.assert_array_equal(whole._change.reference, second._change.reference)
    assert whole._change.reference.size


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_killed_run_leaves_whole_lines(tmp_path):
    code = (
        "import sys; sys.path.insert(0, sys.argv[2])\n"
        "from test_monitor import sums\nfrom mfgjax.monitor import Monitor\n"
        "monitor = Monitor(sys.argv[1])\n"
        "for step in range(10**6):\n    monitor.observe(step, sums(seed=step)); print(step, flush=True)\n"
    )
    folder = os.path.dirname(__file__)
    child = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path), folder], stdout=subprocess.PIPE, text=True
    )
    while int(child.stdout.readline()) < 20:
        pass
    child.send_signal(signal.SIGKILL)
    told = [int(line) for line in child.communicate()[0].split()]
    path = tmp_path / "monitor.jsonl"
    assert len(read_journal(tmp_path).records) >= max(told, default=20) + 1
    with path.open("ab") as file:
        file.write(b'{"kind": "record", "step"')  # what a full disk leaves
    assert len(read_journal(tmp_path).records) >= 21
    with Monitor(tmp_path) as monitor:
        monitor.observe(10**6, sums())
    assert read_journal(tmp_path).records[-1].step == 10**6
    assert all(json.loads(line) for line in path.read_text().splitlines())


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MonitorError, match="no such file"):
        read_journal(tmp_path)
    with Monitor(tmp_path) as monitor:
        monitor.observe(0, sums())
    path = tmp_path / "monitor.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"version": 1', '"version": 2'))
    with pytest.raises(MonitorError, match=r"line 1: a record of version 2"):
        read_journal(tmp_path)
    with pytest.raises(MonitorError, match=r"version 2"), Monitor(tmp_path) as monitor:
        monitor.observe(1, sums())
    path.write_text(whole + "not json\n")
    with pytest.raises(MonitorError, match=r"line 2 is no line of a monitor"):
        read_journal(tmp_path)


def test_a_sink_that_fails_is_named_once_and_dropped(tmp_path):
    good, bad = Recorder(), Recorder(fail_at=1)
    monitor = Monitor(tmp_path, sinks=[bad, good])
    monitor.observe(0, sums())
    with pytest.warns(
        UserWarning, match="Recorder failed and is dropped: ConnectionError: no route"
    ):
        monitor.observe(1, sums())
    monitor.observe(2, sums(broken=3))
    monitor.close()
    assert (bad.steps, bad.closed) == ([0], False)
    assert (good.steps, good.closed) == ([0, 1, 2], True)
    assert [a.fault for a in good.alarms] == [Fault.LOGITS_NOT_FINITE]


def test_actions(caplog):
    called = []
    monitor = Monitor(on_alarm=called.append, stop_on={Fault.LOGITS_NOT_FINITE})
    monitor.observe(0, sums())
    assert not monitor.stop_requested
    for step in range(1, 4):
        monitor.observe(step, sums(broken=3))
    assert monitor.stop_requested and len(called) == 1  # raised once, not at every step
    assert "step 1: logits not finite in layer_0: 3 of 2000 tokens" in caplog.text
    for step in range(4, 30):
        monitor.observe(step, sums())
    monitor.observe(30, sums(broken=1))
    assert len(called) == 2  # it had gone
    quiet = Monitor(ignore={Fault.LOGITS_NOT_FINITE}, stop_on=True)
    quiet.observe(0, sums(broken=3))
    assert not quiet.alarms and not quiet.stop_requested


def test_webhook_posts_the_sentence():
    posted = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        hook = Webhook(f"http://127.0.0.1:{server.server_port}/")
        hook.alarm(ALARM)
        hook.close()
        server.shutdown()
    assert posted[0]["text"] == ALARM.sentence
    assert posted[0]["fault"] == "selection bias rounded"
    broken = Webhook("http://127.0.0.1:9/", timeout=2)
    broken.alarm(ALARM)
    broken.close()
    with pytest.raises(OSError, match="refused"):
        broken.scalars(0, {})
    with pytest.raises(ValueError, match="begins with https://"):
        Webhook("ftp://x")


class Calls:
    """Notes every call of every method."""

    def __init__(self):
        self.made = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.made.append((name, args, kwargs))


def test_trackers_get_scalars_and_alarms(monkeypatch):
    board, run, trackio = Calls(), Calls(), Calls()
    trackio.AlertLevel = types.SimpleNamespace(WARN="warn")
    monkeypatch.setitem(sys.modules, "trackio", trackio)
    for sink in (TensorBoard(writer=board), Wandb(run), Trackio()):
        sink.scalars(5, {"moe/z/worst": 1.0})
        sink.alarm(ALARM)
        sink.close()
    assert board.made[:2] == [
        ("add_scalar", ("moe/z/worst", 1.0, 5), {}),
        ("add_text", ("moe/alarm", ALARM.sentence, 3), {}),
    ]
    assert run.made[0] == ("define_metric", ("moe/*",), {"step_metric": "moe/step"})
    assert run.made[1] == ("log", ({"moe/z/worst": 1.0, "moe/step": 5},), {})
    assert run.made[2][2]["title"] == "selection bias rounded in layers.1"
    name, _, alert = trackio.made[1]
    assert name == "alert" and alert["text"] == ALARM.sentence
    assert alert["title"] == "selection bias rounded in layers.1"


@pytest.mark.parametrize("seed", range(3))
def test_a_change_is_seen_soon_and_health_is_not(seed):
    monitor = Monitor()
    for step in range(LEARNING + 200):
        monitor.observe(step, sums(uneven=0.3, seed=1000 * seed + step))
    assert monitor.alarms == []
    for step in range(LEARNING + 200, LEARNING + 230):
        monitor.observe(step, sums(uneven=3.0, seed=1000 * seed + step))
    (alarm,) = monitor.alarms
    assert alarm.fault is Fault.LOAD_CHANGED and alarm.step < LEARNING + 215
    assert "expert 0 gets" in alarm.evidence


def test_thresholds_and_missing_values():
    assert threshold_of(1e-4) > threshold_of(3e-4) > threshold_of(1e-3)
    with pytest.raises(ValueError, match="measured are"):
        threshold_of(1e-9)
    change = Cusum(5.0)
    draw = np.random.default_rng(0)
    for _ in range(LEARNING + 50):
        y = draw.normal(size=2)
        y[1] = np.nan
        assert not change.update(y).any()
    assert np.isfinite(change.sum).all() and np.isfinite(change.reference).all()
