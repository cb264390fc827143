"""Other tools' dumps, written here the way those tools write them, and read back."""

import base64
import io
import json

import numpy as np
import pytest

from mfgjax.trace import TraceError, write_trace
from mfgjax.trace.readers.megatron import read_megatron
from mfgjax.trace.readers.moelens import read_moelens_domains, read_moelens_prompts
from mfgjax.trace.readers.sglang import read_sglang
from mfgjax.trace.readers.vllm import read_vllm
from mfgjax.trace.statistics import statistics_of

M, K, LAYERS = 8, 2, 3
ROUNDED_TO_5_DIGITS = 2e-3
"""log(p) for p around 0.01 and above, p rounded to 1e-5."""


def draw(tokens, seed=0):
    """`(logits as bfloat16 values, choices)` of shape [token, layer, ...]."""
    logits = np.random.default_rng(seed).normal(size=(tokens, LAYERS, M)).astype(np.float32)
    logits = (logits.view(np.uint32) & 0xFFFF0000).view(np.float32)
    return logits, np.argsort(-logits, axis=-1)[..., :K]


def counts_of(choices):
    return np.stack([np.bincount(choices[:, i].ravel(), minlength=M) for i in range(LAYERS)])


def write_megatron(folder, rank, steps, capture_logits=True):
    lines, sidecar = [], b""
    for step, (logits, choices) in enumerate(steps):
        for layer in range(LAYERS):
            record = {
                "step": step,
                "stage": "pre_dispatch",
                "block": "decoder",
                "layer": layer + 1,
                "rank": rank,
                "num_tokens": len(choices),
                "topk": K,
                "top_indices": choices[:, layer].tolist(),
            }
            if capture_logits:
                half = (logits[:, layer].view(np.uint32) >> 16).astype("<u2").tobytes()
                shape = list(logits[:, layer].shape)
                record |= {
                    "logit_offset": len(sidecar),
                    "logit_bytes": len(half),
                    "logit_shape": shape,
                }
                sidecar += half
            lines.append(json.dumps(record))
    (folder / f"router_trace_rank{rank}.jsonl").write_text("\n".join(lines) + "\n")
    if capture_logits:
        (folder / f"logits_rank{rank}.bin").write_bytes(sidecar)


def test_megatron_with_logits_is_a_token_trace(tmp_path):
    steps = {rank: [draw(5 + rank, seed=10 * rank + s) for s in range(2)] for rank in (0, 1)}
    for rank, drawn in steps.items():
        write_megatron(tmp_path, rank, drawn)
    trace = read_megatron(tmp_path)
    want = [steps[r][s] for r in (0, 1) for s in (0, 1)]
    np.testing.assert_array_equal(trace.logits, np.concatenate([z for z, _ in want]))
    np.testing.assert_array_equal(trace.choices, np.concatenate([c for _, c in want]))
    assert np.bincount(trace.text).tolist() == [5, 5, 6, 6]
    assert trace.metadata.layers[0] == "decoder.layers.1.mlp.router"
    write_trace(tmp_path / "t.tokens.safetensors", trace)
    assert float(statistics_of(trace).statistics.dispatch_count.sum()) == 22 * LAYERS * K
    assert (trace.metadata.revision, trace.metadata.step) == ("step1", 1)
    early = read_megatron(tmp_path, last_step=0, revision="first").metadata
    assert (early.text_count, early.revision, early.step) == (2, "first", 0)


def test_megatron_without_logits_has_loads_only(tmp_path):
    write_megatron(tmp_path, 0, [draw(6)], capture_logits=False)
    with pytest.raises(TraceError, match="pass experts=M"):
        read_megatron(tmp_path)
    record = read_megatron(tmp_path, experts=M)
    np.testing.assert_array_equal(record.dispatch_count[0], counts_of(draw(6)[1]))
    np.testing.assert_allclose(record.load.sum(-1), 1)
    with pytest.raises(TraceError, match=r"loads only.*cannot be estimated"):
        record.statistics  # noqa: B018
    with pytest.raises(TraceError, match=r"expert index \d outside 0\.\.3"):
        read_megatron(tmp_path, experts=4)


@pytest.mark.parametrize("layout", ["lists", "base64", "npy"])
def test_vllm(tmp_path, layout):
    prompt, generated = draw(4, 1)[1].astype(np.int16), draw(3, 2)[1].astype(np.int16)
    if layout == "npy":
        path = tmp_path / "routed.npy"
        np.save(path, np.concatenate([prompt, generated]))
    else:

        def encode(array):
            if layout == "lists":
                return array.tolist()
            buffer = io.BytesIO()
            np.save(buffer, array)
            return base64.b64encode(buffer.getvalue()).decode()

        path = tmp_path / "responses.jsonl"
        response = {
            "prompt_routed_experts": encode(prompt),
            "choices": [{"routed_experts": encode(generated)}],
        }
        path.write_text(json.dumps(response) + "\n" + json.dumps(response) + "\n")
    record = read_vllm(path, experts=M)
    assert record.token_count.tolist() == [7] * (1 if layout == "npy" else 2)
    want = counts_of(np.concatenate([prompt, generated]))
    np.testing.assert_array_equal(record.dispatch_count[0], want)
    assert (record.experts, record.top_k, len(record.layers)) == (M, K, LAYERS)


def test_vllm_without_routing_says_what_to_turn_on(tmp_path):
    (tmp_path / "r.json").write_text('{"choices": [{"text": "x"}]}')
    with pytest.raises(TraceError, match="--enable-return-routed-experts"):
        read_vllm(tmp_path / "r.json", experts=M)


def test_sglang_counts(tmp_path):
    torch = pytest.importorskip("torch")
    passes = [draw(n, n)[1] for n in (4, 9)]
    count = np.zeros((5, LAYERS + 1, M), np.int32)  # layer 0 is dense, the buffer holds 5 passes
    for i, choices in enumerate(passes):
        count[i, 1:] = counts_of(choices)
    output = {
        "rank": 0,
        "logical_count": torch.from_numpy(count),
        "average_utilization_rate_over_window": None,
    }
    torch.save(output, tmp_path / "expert_distribution_recorder_1.pt")
    with pytest.raises(TraceError, match="pass top_k=K"):
        read_sglang(tmp_path / "expert_distribution_recorder_1.pt")
    record = read_sglang(tmp_path / "expert_distribution_recorder_1.pt", top_k=K)
    assert record.token_count.tolist() == [4, 9]
    assert record.layers == ("layers.1", "layers.2", "layers.3")
    np.testing.assert_array_equal(record.dispatch_count, count[:2, 1:])


def test_sglang_per_token_maps_physical_to_logical_experts(tmp_path):
    torch = pytest.importorskip("torch")
    choices = draw(7)[1]
    physical = np.stack([np.roll(np.arange(M), layer) for layer in range(LAYERS)])
    ids = np.full((LAYERS, 7, 8), -1, np.int32)
    for layer in range(LAYERS):
        ids[layer, :, :K] = np.argsort(physical[layer])[choices[:, layer]]
    record = {
        "forward_pass_id": 1,
        "rank": 0,
        "gatherer_key": "primary",
        "input_ids": list(range(7)),
        "positions": list(range(7)),
        "extend_seq_lens": [3, 4],
        "forward_mode": 1,
        "topk_ids_of_layer": torch.from_numpy(ids),
        "misc_objects": [],
    }
    path = tmp_path / "expert_distribution_recorder_1_0.pt"
    torch.save(
        {"records": [record], "last_physical_to_logical_map": torch.from_numpy(physical)}, path
    )
    read = read_sglang(path)
    assert read.token_count.tolist() == [3, 4] and read.top_k == K
    np.testing.assert_array_equal(read.dispatch_count[0], counts_of(choices[:3]))
    np.testing.assert_array_equal(read.dispatch_count[1], counts_of(choices[3:]))


def moelens_prompt(logits, choices):
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    layers = [{"layer": 0, "tokens": None, "is_dense": True}]
    for layer in range(LAYERS):
        tokens = [
            {
                "token_index": t,
                "top_experts": choices[t, layer].tolist(),
                "top_weights": [],
                "all_probs": [round(float(x), 5) for x in p[t, layer]],
            }
            for t in range(len(logits))
        ]
        layers.append({"layer": layer + 1, "tokens": tokens})
    return {"prompt": "x", "domain": "code", "layers": layers}


@pytest.mark.parametrize("split", [False, True])
def test_moelens_prompts(tmp_path, split):
    drawn = [draw(n, n) for n in (3, 5)]
    prompts = [moelens_prompt(*d) for d in drawn]
    if split:
        for i, prompt in enumerate(prompts):
            (tmp_path / f"prompt-{i}.json").write_text(json.dumps(prompt))
        trace = read_moelens_prompts(tmp_path)
    else:
        (tmp_path / "moe_routing_trace.json").write_text(json.dumps({"prompts": prompts}))
        trace = read_moelens_prompts(tmp_path / "moe_routing_trace.json")
    logits = np.concatenate([z for z, _ in drawn])
    centred = logits - logits.mean(-1, keepdims=True)
    np.testing.assert_allclose(trace.logits, centred, atol=ROUNDED_TO_5_DIGITS)
    assert trace.metadata.layers == ("layers.1", "layers.2", "layers.3")
    assert "rounded" in trace.metadata.routing["logits"]
    assert np.bincount(trace.text).tolist() == [3, 5]


def test_moelens_domains(tmp_path):
    names, tokens, rate, prob = ["code", "law"], {}, {}, {}
    for i, name in enumerate(names):
        logits, choices = draw(10 + i, i)
        p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        tokens[name] = len(choices)
        rate[name] = (counts_of(choices) / len(choices)).round(5).tolist()
        prob[name] = p.mean(0).round(5).tolist()
    content = {"domains": names, "token_counts": tokens, "top_k_experts": K}
    path = tmp_path / "domain_specialization.json"
    path.write_text(json.dumps(content | {"activation_rate": rate, "avg_prob": prob}))
    record = read_moelens_domains(path)
    np.testing.assert_array_equal(record.dispatch_count[1], counts_of(draw(11, 1)[1]))
    np.testing.assert_allclose(record.probability_sum.sum(-1), [[10] * 3, [11] * 3], rtol=1e-3)


@pytest.mark.parametrize("content", [b"[" * 200_000, b'{"text": "\xff\xfe"}', b"{", b"1" * 10**5])
def test_what_is_not_json(tmp_path, content):
    (tmp_path / "r.json").write_bytes(content)
    with pytest.raises(TraceError, match=r"r\.json: not JSON"):
        read_vllm(tmp_path / "r.json", experts=4)


def test_probabilities_that_are_none(tmp_path):
    token = {"top_experts": [0], "all_probs": [0.9, 0.9]}
    content = {"layers": [{"layer": 0, "tokens": [token]}]}
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(TraceError, match="not probabilities"):
        read_moelens_prompts(tmp_path / "p.json")
