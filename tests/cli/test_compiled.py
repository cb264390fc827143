"""Compiled programs are kept in the user's cache folder, unless the user says otherwise."""

import os

import pytest

from mfgjax.cli.main import keep_compiled

FOLDER = "JAX_COMPILATION_CACHE_DIR"
AT_LEAST = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    monkeypatch.delenv(FOLDER)
    monkeypatch.delenv(AT_LEAST)
    return tmp_path


def test_folder_is_made_and_named(home):
    keep_compiled()
    assert os.environ[FOLDER] == str(home / "mfgjax" / "compiled")
    assert (home / "mfgjax" / "compiled").is_dir()


def test_own_setting_wins(home, monkeypatch):
    monkeypatch.setenv(FOLDER, "elsewhere")
    keep_compiled()
    assert os.environ[FOLDER] == "elsewhere"


def test_unusable_home_is_left_alone(home):
    (home / "mfgjax").write_text("a file where the folder would be")
    keep_compiled()
    assert FOLDER not in os.environ
