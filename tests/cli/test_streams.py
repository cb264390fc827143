"""How commands end and what they say where: Ctrl-C, closed pipes, JSON, quiet, narrow terminals."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.progress import Progress
from typer.testing import CliRunner

from mfgjax.cli import console, main, progress
from mfgjax.report.files import whole_file


@pytest.fixture(autouse=True)
def fresh_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return CliRunner().invoke(main.app, [str(a) for a in arguments])


class TestInterruption:
    def test_in_the_middle_of_a_run(self, sweep_folder, fresh_folder, monkeypatch):
        def stop(self, items, **settings):
            raise KeyboardInterrupt

        monkeypatch.setattr(Progress, "track", stop)
        for command in ("track", "analyze"):
            shown = run(command, sweep_folder, "--resamples", 1, "--out", "results")
            assert (shown.exit_code, shown.stdout) == (130, "")
            assert shown.stderr == (
                "stopped by Ctrl-C. No file is half-written. Run the same command to start again.\n"
            )
        assert not list(fresh_folder.iterdir())

    def test_in_the_middle_of_a_file(self, fresh_folder):
        path = fresh_folder / "trajectory.csv"
        path.write_text("before")

        def interrupted():
            with whole_file(path) as partial:
                partial.write_text("half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            interrupted()
        assert [p.name for p in fresh_folder.iterdir()] == ["trajectory.csv"]
        assert path.read_text() == "before"

    def test_two_at_once_write_whole_files(self, fresh_folder):
        path = fresh_folder / "trajectory.csv"
        with whole_file(path) as first:
            first.write_text("first")
            with whole_file(path) as second:
                second.write_text("se")
            assert path.read_text() == "se"
            with first.open("a") as file:
                file.write(", whole")
        assert path.read_text() == "first, whole"
        assert [p.name for p in fresh_folder.iterdir()] == ["trajectory.csv"]

    def test_the_reader_goes_away(self):
        code = (
            "from mfgjax.cli import console, main\n"
            "@main.app.command()\n"
            "def count():\n"
            "    for i in range(10**6): console.show(str(i))\n"
            "main.app(['count'])\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as started:
            assert started.stdout.readline() == "0\n"
            started.stdout.close()
            assert started.stderr.read() == ""
        assert started.returncode == 141

    @pytest.mark.parametrize("then", ["time.sleep(60)", "pass"])
    def test_dropped_by_the_garbage_collector(self, then):
        """Python reports what a callback of the collector raises, and goes on."""
        code = (
            "import gc, os, signal, time\n"
            # what a background shell starts ignores Ctrl-C
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "from mfgjax.cli.main import app\n"
            "def callback(phase, info):\n"
            "    gc.callbacks.remove(callback)\n"
            "    os.kill(os.getpid(), signal.SIGINT)\n"
            "    for _ in range(10): pass\n"
            "@app.command()\n"
            "def collect():\n"
            "    gc.callbacks.append(callback)\n"
            "    gc.collect()\n"
            f"    {then}\n"
            "app(['collect'])\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 130
        assert done.stderr.startswith("stopped by Ctrl-C. No file is half-written.")
        assert "Traceback" not in done.stderr

    @pytest.mark.parametrize("module", ["typer", "mfgjax.cli.failures", "rich.progress"])
    def test_while_the_program_is_imported(self, module):
        code = (
            "import runpy, sys\n"
            "class Stop:\n"
            "    def find_spec(self, name, path=None, target=None):\n"
            f"        if name == {module!r}: raise KeyboardInterrupt\n"
            "sys.meta_path.insert(0, Stop())\n"
            "runpy.run_module('mfgjax', run_name='__main__')\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (130, "stopped by Ctrl-C.\n")


class TestClosedStreams:
    """As a shell closes them: `>&-`."""

    def run(self, redirection, *arguments):
        words = " ".join([sys.executable, "-m", "mfgjax", *arguments, redirection])
        return subprocess.run(["sh", "-c", words], capture_output=True, text=True)

    def test_standard_output(self):
        done = self.run(">&-", "fit", "layer.csv")
        assert done.returncode == 2
        assert done.stderr == (
            "error: standard output is closed. To do without the result: > /dev/null\n"
        )

    def test_standard_error(self):
        done = self.run("2>&-", "fit", "none.csv")
        assert (done.returncode, done.stdout, done.stderr) == (2, "", "")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
    @pytest.mark.parametrize("words", [["--help"], ["count"]])
    def test_full_disk(self, words):
        code = (
            "from mfgjax.cli import console, main\n"
            "@main.app.command()\n"
            "def count(): console.show_json({'counted': 3})\n"
            "from mfgjax.__main__ import main\n"
            f"import sys; sys.argv[1:] = {words!r}; main()\n"
        )
        with open("/dev/full", "w") as full:
            done = subprocess.run(
                [sys.executable, "-c", code], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert done.returncode == 1
        assert done.stderr.startswith("error: ") and "No space left on device" in done.stderr
        assert done.stderr.count("\n") == 1


def test_warnings_of_libraries_stay_off_the_terminal():
    code = (
        "import warnings\n"
        "from mfgjax.cli.main import app\n"
        "@app.command()\n"
        "def warn(): warnings.warn('constrained layout'); print('done')\n"
        "from mfgjax.__main__ import main\n"
        "import sys; sys.argv[1:] = ['warn']; main()\n"
    )
    quiet, loud = (
        subprocess.run([sys.executable, *w, "-c", code], capture_output=True, text=True)
        for w in ([], ["-W", "default"])
    )
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "done\n", "")
    assert "constrained layout" in loud.stderr


class TestOutput:
    def test_one_json_document_and_quiet(self, fresh_folder):
        (fresh_folder / "layer.csv").write_text("quality,1,0,-1\nload,50,30,20\n")
        fit = ["fit", "layer.csv", "--objective", "kl", "--out", "results", "--json"]
        loud, quiet = run(*fit), run(*fit, "--quiet")
        assert (loud.exit_code, quiet.exit_code) == (0, 0)
        assert loud.stdout == quiet.stdout
        found = json.loads(loud.stdout)
        assert found["fits"][0]["status"] == "CONVERGED"
        assert loud.stderr == "wrote 3 files to results: fit.csv, fit.md, fit.tex\n"
        assert quiet.stderr == ""
        assert all((fresh_folder / path).is_file() for path in found["files"])

    def test_an_answer_without_certificate_is_exit_code_1(self, fresh_folder):
        """Equal loads say nothing about congestion."""
        (fresh_folder / "layer.csv").write_text("quality,1,0,-1\nload,20,20,20\n")
        shown = run("fit", "layer.csv", "--objective", "kl", "--json")
        assert shown.exit_code == 1
        (row,) = json.loads(shown.stdout)["fits"]
        assert (row["status"], row["congestion"]) == ("UNIDENTIFIED", None)

    def test_many_files_are_one_line(self, capsys, monkeypatch):
        monkeypatch.setattr(console, "messages", console._Stream(stderr=True))
        paths = ["a/tables/x.csv", "a/tables/x.md", "a/figures/y.png", "a/report.html"]
        console.say_written(map(Path, paths))
        told = "wrote 4 files to a: tables/ (2), figures/ (1), report.html\n"
        assert capsys.readouterr().err == told
        console.say_written([Path("x.csv")])
        assert capsys.readouterr().err == "wrote 1 file to .: x.csv\n"
        console.say_written([Path(f"a/{i}.png") for i in range(8)])
        told = "wrote 8 files to a: 0.png, 1.png, 2.png, 3.png, 4.png, and 3 more\n"
        assert capsys.readouterr().err == told
        console.say_written([])
        assert capsys.readouterr().err == ""

    @pytest.mark.parametrize("width", [12, 40, 200])
    def test_progress_keeps_to_a_narrow_terminal(self, monkeypatch, width):
        monkeypatch.setenv("NO_COLOR", "1")
        written = io.StringIO()
        terminal = console._Stream(file=written, force_terminal=True, width=width)
        monkeypatch.setattr(progress, "messages", terminal)
        with progress.progress_over("checkpoints") as wrap:
            assert list(wrap(range(3))) == [0, 1, 2]
        drawn = written.getvalue()
        assert "\x1b[3" not in drawn  # no colours
        assert "check" in drawn
        lines = [line for line in drawn.replace("\r", "\n").split("\n") if "check" in line]
        assert all(len(line.split("\x1b[2K")[-1]) <= width for line in lines)

    def test_long_commands_tell_how_far_they_are(self, sweep_folder, monkeypatch):
        told = []

        def wrap(description):
            told.append(description)
            return contextlib.nullcontext(lambda items: told.append(len(items)) or items)

        for command in ("robustness", "bifurcation"):
            monkeypatch.setattr(f"mfgjax.cli.{command}.progress_over", wrap)
        monkeypatch.setattr(
            "mfgjax.bifurcation.atlas.draw_atlas", lambda out, over: list(over(range(8)))[:0]
        )
        monkeypatch.setattr(
            "mfgjax.estimate.inference.sensitivity._fit",
            lambda _, quality, load: (quality[..., 0], 0),
        )
        assert run("bifurcation", "--out", "atlas").exit_code == 0
        assert run("robustness", sweep_folder, "--json").exit_code == 0
        assert told == ["figures", 8, "checkpoints", 6]

    def test_progress_is_silent_in_a_pipe(self, monkeypatch):
        written = io.StringIO()
        monkeypatch.setattr(progress, "messages", console._Stream(file=written))
        with progress.progress_over("checkpoints") as wrap:
            list(wrap(range(3)))
        assert written.getvalue() == ""

    def test_what_simulate_is_told_is_what_is_simulated(self, monkeypatch):
        def simulated(folder, run, progress):
            return {"settings": run, "checkpoints": [{"trace": "step0.statistics.safetensors"}]}

        monkeypatch.setattr("mfgjax.simulate.sweep.simulate_sweep", simulated)
        monkeypatch.setattr("mfgjax.simulate.sweep.SimulatedRun", dict)
        options = {"layers": 1, "experts": 4, "top_k": 2, "texts": 9, "tokens": 8, "seed": 3}
        options |= {"quality_noise": 0.5, "dispersion": 0.25, "load_spread": 0.125}
        words = [w for n, v in options.items() for w in ("--" + n.replace("_", "-"), v)]
        shown = run("simulate", "--out", "k", "--congestion", "-1,4,2", *words, "--json")
        found = json.loads(shown.stdout)
        told = {"congestion": [-1, 4, 2], "steps": [0, 100, 200]}
        assert found["settings"] == options | told
        assert found["files"] == ["k/step0.statistics.safetensors"]
