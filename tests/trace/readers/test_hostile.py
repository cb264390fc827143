"""Dumps made to harm: code in pickles, paths out of the folder, sizes that eat the memory."""

import base64
import io
import json
import os
import pickle
import struct
import zipfile

import numpy as np
import pytest

from mfgjax.trace import TraceError, read_sweep, read_trace
from mfgjax.trace.readers.megatron import read_megatron
from mfgjax.trace.readers.moelens import read_moelens_domains
from mfgjax.trace.readers.sglang import read_sglang
from mfgjax.trace.readers.torch_archive import read_torch_archive
from mfgjax.trace.readers.untrusted import parse_npy
from mfgjax.trace.readers.vllm import read_vllm


class RunsCode:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.system, (f"touch {self.path}",))


def archive(path, pickled, **members):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", pickled)
        for name, content in members.items():
            file.writestr(name, content)


def test_a_pickle_in_an_archive_runs_nothing(tmp_path):
    witness = tmp_path / "witness"
    path = tmp_path / "dump.pt"
    archive(path, pickle.dumps({"logical_count": RunsCode(witness)}, protocol=2))
    with pytest.raises(TraceError, match=r"asks for posix\.system"):
        read_sglang(path, top_k=1)
    assert not witness.exists()


@pytest.mark.parametrize("name", ["eval", "getattr", "__import__"])
def test_builtins_are_refused_too(tmp_path, name):
    archive(tmp_path / "d.pt", f"cbuiltins\n{name}\n.".encode())
    with pytest.raises(TraceError, match="only tensors and plain values"):
        read_torch_archive(tmp_path / "d.pt")


def test_a_plain_pickle_is_refused_unread(tmp_path):
    witness = tmp_path / "witness"
    (tmp_path / "dump.pt").write_bytes(pickle.dumps(RunsCode(witness)))
    with pytest.raises(TraceError, match="Plain pickles are refused"):
        read_sglang(tmp_path / "dump.pt", top_k=1)
    assert not witness.exists()


def test_a_pickle_in_a_trace_folder_is_not_opened(tmp_path):
    witness = tmp_path / "witness"
    for name in ("step0.pkl", "step0.statistics.pt", "step0.tokens.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps(RunsCode(witness)))
    with pytest.raises(TraceError, match="not a safetensors file"):
        read_sweep(tmp_path)
    assert not witness.exists()


def tensor_pickle(offset, shape, stride, count=4):
    """What torch.save writes for one int32 tensor, with freely chosen geometry."""
    out = io.BytesIO()
    # By hand: the torch.save of this torch would refuse to write such a tensor.
    out.write(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(")
    out.write(
        b"(X\x07\x00\x00\x00storagectorch\nIntStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
    )
    out.write(b"J" + struct.pack("<i", count) + b"tQ")
    out.write(b"J" + struct.pack("<i", offset))
    for numbers in (shape, stride):
        out.write(b"(" + b"".join(b"J" + struct.pack("<i", n) for n in numbers) + b"t")
    out.write(b"\x89ccollections\nOrderedDict\n)Rt")
    return out.getvalue() + b"R."


def test_a_tensor_may_not_reach_outside_its_storage(tmp_path):
    data = {"archive/data/0": np.arange(4, dtype="<i4").tobytes()}
    archive(tmp_path / "good.pt", tensor_pickle(1, (3,), (1,)), **data)
    assert read_torch_archive(tmp_path / "good.pt").tolist() == [1, 2, 3]
    for offset, shape, stride in [
        (2, (3,), (1,)),
        (0, (2, 4), (4, 1)),
        (3, (2,), (-1,)),
        (-1, (1,), (1,)),
    ]:
        archive(tmp_path / "bad.pt", tensor_pickle(offset, shape, stride), **data)
        with pytest.raises(TraceError, match="outside its storage"):
            read_torch_archive(tmp_path / "bad.pt")


@pytest.mark.parametrize(
    ("shape", "stride"), [((100_000, 64, 256), (0, 0, 0)), ((5,), (0,)), ((3, 2), (1, 1))]
)
def test_an_expanded_tensor_is_refused_before_it_takes_memory(tmp_path, shape, stride):
    data = {"archive/data/0": np.arange(4, dtype="<i4").tobytes()}
    archive(tmp_path / "d.pt", tensor_pickle(0, shape, stride), **data)
    with pytest.raises(TraceError, match="claims more than its storage holds"):
        read_torch_archive(tmp_path / "d.pt")


def test_tensors_may_share_a_storage_but_not_without_end(tmp_path):
    data = {"archive/data/0": np.arange(4, dtype="<i4").tobytes()}
    one = tensor_pickle(0, (2, 2), (1, 2))[2:-1]

    def tensors(count):
        return b"\x80\x02(" + count * one + b"l."

    archive(tmp_path / "d.pt", tensors(3), **data)
    read = read_torch_archive(tmp_path / "d.pt")
    assert [tensor.tolist() for tensor in read] == 3 * [[[0, 2], [1, 3]]]
    archive(tmp_path / "d.pt", tensors(9), **data)
    with pytest.raises(TraceError, match="claims more than its storage holds"):
        read_torch_archive(tmp_path / "d.pt")


def sglang_counts(path, counts):
    """A dump of mode `stat` of `[pass, layer, expert]` 32-bit counts."""
    counts = np.asarray(counts, "<i4")
    strides = [s // 4 for s in counts.strides]
    tensor = tensor_pickle(0, counts.shape, strides, counts.size)[2:-1]
    pickled = b"\x80\x02}X\x0d\x00\x00\x00logical_count" + tensor + b"s."
    archive(path, pickled, **{"archive/data/0": counts.tobytes()})


@pytest.mark.parametrize(
    ("counts", "top_k", "words"),
    [
        ([[[2, 1, 1, 0]]], 0, "top_k is 0, with 4 experts"),
        ([[[2, 1, 1, 0]]], -2, "top_k is -2"),
        ([[[2, 1, 1, 0]]], 5, "top_k is 5"),
        ([[[3, 1, 0, 0]]], 2, r"layers\.0: expert 0 was chosen 3 times by 2 tokens"),
        ([[[3, -1, 0, 0]]], 2, "-1 to 3: no counts"),
    ],
)
def test_counts_that_cannot_be(tmp_path, counts, top_k, words):
    sglang_counts(tmp_path / "d.pt", [[[2, 2, 0, 0]]])
    assert read_sglang(tmp_path / "d.pt", top_k=2).token_count.tolist() == [2]
    sglang_counts(tmp_path / "d.pt", counts)
    with pytest.raises(TraceError, match=words):
        read_sglang(tmp_path / "d.pt", top_k=top_k)


MOELENS = {
    "domains": ["law"],
    "token_counts": {"law": 10},
    "top_k_experts": 2,
    "activation_rate": {"law": [[0.9, 0.6, 0.5]]},
    "avg_prob": {"law": [[0.5, 0.3, 0.2]]},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"top_k_experts": 1}, "top_k_experts is 1, but"),
        ({"top_k_experts": -2}, "top_k_experts is -2, but"),
        ({"top_k_experts": 2.0}, "'top_k_experts' is float"),
        ({"token_counts": {"law": -10}}, "token_counts of -10 to -10 are no counts"),
        ({"token_counts": {"law": 10**30}}, "are no counts"),
        ({"token_counts": {"law": 0}}, "no tokens were recorded"),
        ({"domains": [["law"]]}, "not a list of names"),
        ({"domains": []}, "not a list of names"),
    ],
)
def test_summaries_that_cannot_be(tmp_path, changes, words):
    path = tmp_path / "domain_specialization.json"
    path.write_text(json.dumps(MOELENS))
    assert read_moelens_domains(path).dispatch_count.tolist() == [[[9, 6, 5]]]
    path.write_text(json.dumps(MOELENS | changes))
    with pytest.raises(TraceError, match=rf"domain_specialization\.json.*{words}"):
        read_moelens_domains(path)


@pytest.mark.parametrize(
    ("routed", "experts", "words"),
    [
        ([[[1, 1]]], 4, "names expert 1 twice for token 0, layer 0"),
        ([[[1, 2]]], 1, "1 experts, but 2 chosen per token"),
        ([[[1, 2]]], -4, "-4 experts"),
        ([[[1, 2]]], 2**50, "experts, but"),
        ([[[1, 2]], [[1], [2]]], 4, "rectangular"),
    ],
)
def test_choices_that_cannot_be(tmp_path, routed, experts, words):
    (tmp_path / "r.json").write_text(json.dumps({"choices": [{"routed_experts": routed}]}))
    with pytest.raises(TraceError, match=rf"r\.json.*{words}"):
        read_vllm(tmp_path / "r.json", experts=experts)


def test_a_prompt_of_another_model(tmp_path):
    content = {"prompt_routed_experts": [[[1]]], "choices": [{"routed_experts": [[[1, 2]]]}]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    with pytest.raises(TraceError, match=r"r\.json.*layers or top_k differ from its prompt's"):
        read_vllm(tmp_path / "r.json", experts=4)


def test_megatron_records_of_two_models(tmp_path):
    other = {"topk": 2, "top_indices": [[0, 1]]}
    lines = [megatron_line(), megatron_line(**other)]
    (tmp_path / "router_trace_rank0.jsonl").write_text("\n".join(lines))
    (tmp_path / "logits_rank0.bin").write_bytes(b"\x80\x3f" * 2)
    with pytest.raises(TraceError, match="top_k or the number of experts differs"):
        read_megatron(tmp_path)


def test_a_10_gb_header_takes_no_memory(tmp_path):
    path = tmp_path / "step0.statistics.safetensors"
    path.write_bytes(struct.pack("<Q", 10 * 2**30) + b"{" * 100)
    with pytest.raises(TraceError, match="not a safetensors file"):
        read_trace(path)


def test_a_huge_npy_shape_takes_no_memory(tmp_path):
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (100000, 1000, 10000), }"
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with pytest.raises(TraceError, match="needs 8000000000000 bytes"):
        parse_npy(content, "x")
    response = {"choices": [{"routed_experts": base64.b64encode(content).decode()}]}
    (tmp_path / "r.json").write_text(json.dumps(response))
    with pytest.raises(TraceError, match="needs 8000000000000 bytes"):
        read_vllm(tmp_path / "r.json", experts=4)


@pytest.mark.parametrize("shape", ["(-2, -2)", "(2, 'x')", "(2.0, 2)", "(((((", "4", "(True, 4)"])
def test_a_npy_shape_that_is_none(shape):
    header = f"{{'descr': '|i1', 'fortran_order': False, 'shape': {shape}, }}".encode()
    content = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(4)
    with pytest.raises(TraceError, match=r"^x: not a \.npy array"):
        parse_npy(content, "x")


def test_an_object_array_is_refused(tmp_path):
    np.save(tmp_path / "r.npy", np.array([RunsCode(tmp_path / "witness")], object))
    with pytest.raises(TraceError, match="pickled Python objects"):
        read_vllm(tmp_path / "r.npy", experts=4)
    assert not (tmp_path / "witness").exists()


def megatron_line(**changes):
    record = {"step": 0, "layer": 0, "rank": 0, "num_tokens": 1, "topk": 1, "top_indices": [[0]]}
    logits = {"logit_offset": 0, "logit_bytes": 4, "logit_shape": [1, 2]}
    return json.dumps(record | logits | changes)


def test_a_rank_in_a_record_cannot_name_a_file(tmp_path):
    inside = tmp_path / "dump"
    inside.mkdir()
    (tmp_path / "logits_rank0.bin").write_bytes(b"\x80\x3f" * 2)
    line = megatron_line(rank="0/../../logits_rank0")
    (inside / "router_trace_rank0.jsonl").write_text(line)
    with pytest.raises(TraceError, match=r"dump/logits_rank0\.bin: no such file"):
        read_megatron(inside)


def test_a_link_out_of_the_folder_is_not_followed(tmp_path):
    inside = tmp_path / "dump"
    inside.mkdir()
    (tmp_path / "secret").write_bytes(b"\x80\x3f" * 2)
    (inside / "router_trace_rank0.jsonl").write_text(megatron_line())
    (inside / "logits_rank0.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(TraceError, match="link out of its folder"):
        read_megatron(inside)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logit_offset": 2**40}, "beyond the end"),
        ({"logit_offset": -2}, "does not fit"),
        ({"logit_shape": [1, 2**40]}, "does not fit"),
        ({"logit_shape": ["1", 2]}, "does not fit"),
        ({"num_tokens": 2}, "topk differ"),
        ({"top_indices": [[0], [1, 2]]}, "rectangular"),
        ({"top_indices": [[2**70]]}, "integers"),
        ({"top_indices": [[7]]}, r"expert index 7 outside 0\.\.1"),
        ({"step": True}, "'step' is bool"),
    ],
)
def test_damaged_megatron_records(tmp_path, changes, message):
    (tmp_path / "router_trace_rank0.jsonl").write_text(megatron_line(**changes))
    (tmp_path / "logits_rank0.bin").write_bytes(b"\x80\x3f" * 2)
    with pytest.raises(TraceError, match=message):
        read_megatron(tmp_path)
