"""One cache, several readers: one download, deleted by the last of them; a bounded number at all."""

import threading
from types import SimpleNamespace

import pytest

from mfgjax_extract import hub_cache
from mfgjax_extract.engines.claim import claimed
from mfgjax_extract.hub_cache import downloaded
from mfgjax_extract.revisions import Revision
from mfgjax_extract.source import NOTES

COMMIT = "a" * 40
REVISION = Revision("step1", "org/moe", COMMIT, 1, None)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, a hub that writes into it, and what it was asked for."""
    folder = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    asked = []

    def download(revision):
        asked.append(revision.hub_revision)
        repo = folder / "models--org--moe"
        snapshot = repo / "snapshots" / revision.hub_revision
        snapshot.mkdir(parents=True)
        (repo / "blobs").mkdir(exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            (repo / "blobs" / name).write_text("x")
            (snapshot / name).symlink_to(repo / "blobs" / name)

    monkeypatch.setattr(hub_cache, "_download", download)
    return SimpleNamespace(
        folder=folder, asked=asked, snapshot=folder / "models--org--moe" / "snapshots" / COMMIT
    )


def test_the_last_reader_deletes_what_was_downloaded_once(cache, tmp_path):
    with downloaded(REVISION, tmp_path, delete=True):
        with downloaded(REVISION, tmp_path, delete=True):
            assert cache.snapshot.is_dir()
        assert cache.snapshot.is_dir()  # the other one still reads it
    assert not cache.snapshot.exists() and cache.asked == [COMMIT]
    assert not list(cache.folder.glob(".mfgjax-extract/*.reader"))


def test_a_killed_reader_keeps_nothing_and_without_the_word_nothing_is_deleted(cache, tmp_path):
    with downloaded(REVISION, tmp_path, delete=False):
        (
            cache.folder / ".mfgjax-extract" / f"{COMMIT}.0123456789ab.reader"
        ).touch()  # nobody holds it
    assert cache.snapshot.is_dir()
    with downloaded(REVISION, tmp_path, delete=True):
        pass
    assert not cache.snapshot.exists() and cache.asked == [COMMIT]


def test_downloads_of_all_nodes_are_bounded(cache, tmp_path, monkeypatch):
    """Another node, with another cache, holds the only place."""
    monkeypatch.setattr(hub_cache, "MOST_DOWNLOADS", 1)

    def read():
        with downloaded(REVISION, tmp_path, delete=False):
            pass

    reader = threading.Thread(target=read)
    with claimed(tmp_path / NOTES, "download-0"):
        reader.start()
        reader.join(0.3)
        assert reader.is_alive() and not cache.asked
    reader.join()
    assert cache.asked == [COMMIT]


def test_a_local_folder_is_no_download(cache, tmp_path):
    with downloaded(Revision("step1", str(tmp_path), None, 1, None), tmp_path, delete=True):
        pass
    assert tmp_path.is_dir() and not cache.folder.exists()
