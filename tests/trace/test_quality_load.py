"""Every form of a file of qualities and loads says the same; every wrong one says what is wrong."""

import numpy as np
import pytest

from mfgjax.trace import TraceError
from mfgjax.trace.quality_load import read_quality_load

QUALITY = np.array([[1.5, -0.5, 0.25], [0.0, 2.0, -1.0]])
LOAD = np.array([[0.5, 0.25, 0.25], [0.25, 0.25, 0.5]])


def rows():
    lines = []
    for quality, load in zip(QUALITY, LOAD, strict=True):
        lines += [["quality", *quality], ["load", *load]]
    return "\n".join(",".join(map(str, line)) for line in lines) + "\n"


def columns():
    lines = ["layer,expert,quality,load"]
    for layer in range(2):
        lines += [f"l{layer},{i},{QUALITY[layer, i]},{LOAD[layer, i]}" for i in range(3)]
    return "\n".join(lines)


def write(path, form):
    if form == "npz":
        np.savez(path, quality=QUALITY, load=LOAD)
    elif form == "npy":
        np.save(path, np.stack([QUALITY, LOAD]))
    else:
        path.write_text(rows() if form == "rows" else columns())
    return path


@pytest.mark.parametrize("form", ["rows", "columns", "npz", "npy"])
def test_forms_agree(tmp_path, form):
    suffix = "csv" if form in ("rows", "columns") else form
    found = read_quality_load(write(tmp_path / f"layer.{suffix}", form))
    np.testing.assert_array_equal(found.quality, QUALITY)
    np.testing.assert_array_equal(found.load, LOAD)
    assert found.layers == (("l0", "l1") if form == "columns" else ("0", "1"))
    assert np.isnan(found.dispatches).all()


def test_counts_become_fractions_and_are_counted(tmp_path):
    (tmp_path / "layer.csv").write_text("quality,1,0,-1\nload,10,20,10\n")
    found = read_quality_load(tmp_path / "layer.csv")
    np.testing.assert_array_equal(found.load, [[0.25, 0.5, 0.25]])
    np.testing.assert_array_equal(found.dispatches, [40])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "no lines"),
        ("quality,1,0\n", "in turn"),
        ("load,1,0\nquality,1,0\n", "in turn"),
        ("quality,1,x\nload,1,0\n", "'x'"),
        ("quality,1,0,2\nload,1,0\n", "shape"),
        ("quality,nan,0\nload,1,1\n", "quality is nan at layer 0, expert 0"),
        ("quality,2,0\nload,-1,2\n", "negative"),
        ("quality,2,0\nload,0,0\n", "all of a layer's loads are 0"),
        ("quality,2,0\nload,0.4,0.5\n", "sums to 0.9"),
        ("quality,0.5,0.5\nload,1,3\n", "probabilities"),
        ("layer,quality,load\n0,1\n", "shorter"),
        ("expert,load\n0,1\n", "line 1 has expert, load, no quality and load"),
    ],
)
def test_wrong_content_is_explained(tmp_path, content, words):
    path = tmp_path / "layer.csv"
    path.write_text(content)
    with pytest.raises(TraceError, match=r"layer\.csv") as told:
        read_quality_load(path)
    assert words in str(told.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [(np.ones((0, 3)), "1 layer and 2 experts"), (np.ones((2, 3)) * 1j, "complex")],
)
def test_arrays_that_are_no_layers_are_explained(tmp_path, values, words):
    path = tmp_path / "layer.npz"
    np.savez(path, quality=values, load=np.ones_like(values))
    with pytest.raises(TraceError, match=rf"layer\.npz.*{words}"):
        read_quality_load(path)


@pytest.mark.parametrize("suffix", ["npz", "npy"])
def test_files_of_another_kind_are_explained(tmp_path, suffix):
    path = tmp_path / f"layer.{suffix}"
    path.write_text("not numpy")
    with pytest.raises(TraceError, match=r"not a (file of qualities and loads|\.npy array)"):
        read_quality_load(path)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(TraceError, match=r"no quality among a\.npy"):
        read_quality_load(tmp_path / "other.npz")
    with pytest.raises(TraceError, match=rf"none\.{suffix}: no such file"):
        read_quality_load(tmp_path / f"none.{suffix}")


@pytest.mark.parametrize("suffix", ["npz", "npy"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_truncated_files_are_named(tmp_path, suffix, share):
    path = write(tmp_path / f"layer.{suffix}", suffix)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(TraceError, match=rf"layer\.{suffix}: .*not"):
        read_quality_load(path)


def test_every_damaged_byte_of_an_archive_is_a_sound_file_or_names_it(tmp_path):
    path = tmp_path / "layer.npz"
    np.savez_compressed(path, quality=QUALITY, load=LOAD)
    content = path.read_bytes()
    told = []
    for position in range(0, len(content), 3):
        changed = bytearray(content)
        changed[position] ^= 0xFF
        path.write_bytes(changed)
        try:
            read_quality_load(path)
        except TraceError as error:
            told.append(str(error))
    assert len(told) > len(content) / 6
    assert all("layer.npz" in message for message in told)


def test_a_claimed_shape_takes_no_memory(tmp_path):
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (2, 10000000000), }"
    content = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header
    (tmp_path / "layer.npy").write_bytes(content)
    with pytest.raises(TraceError, match=r"layer\.npy: shape .* needs 160000000000 bytes, not 0"):
        read_quality_load(tmp_path / "layer.npy")
