"""Table 6 on tiny models: routers of each family come through, attention experts and encoders too."""

import pytest
import torch

from benchmarks.studies.architectures import compare, encoded_texts
from mfgjax.report.sections.architectures import cross_architecture_table
from mfgjax.trace import read_trace

SHAPES = ("jetmoe", "switch")


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    from tiny_architectures import SHAPES as every

    torch.set_num_threads(1)
    shapes = tuple(s for s in every if s.family in SHAPES and s.experts == 8)
    folder = tmp_path_factory.mktemp("traces")
    data = torch.arange(4000) % 251
    found, losses = compare(shapes, 2, encoded_texts(6), data, folder)
    return shapes, found, losses, folder


def test_every_shape_at_random_and_trained(compared):
    shapes, found, losses, _ = compared
    assert set(losses) == {"jetmoe 8", "switch 8"}
    table = cross_architecture_table(found).frame
    assert len(table) == 2 * len(shapes)
    assert set(table.revision) == {"step0", "step2"}
    assert table.model.str.startswith("tiny, ").all()
    assert table.k_over_m.tolist() == sorted(table.k_over_m, reverse=True)
    assert set(table.mfg_wins) <= {"yes", "no", "not resolved"}


def test_traces_hold_the_routers_that_the_name_says(compared):
    *_, folder = compared
    traces = {p.name.split(".")[0]: read_trace(p) for p in folder.glob("*.safetensors")}
    attention = traces["jetmoe-shape-attention-experts"].metadata
    assert all("attention" in layer for layer in attention.layers) and len(attention.layers) == 2
    assert all("mlp" in x for x in traces["jetmoe-shape-mlp-experts"].metadata.layers)
    encoder = traces["switch-8-shape-encoder"]
    assert encoder.metadata.stream == "encoder" and encoder.metadata.top_k == 1
    assert all(layer.startswith("encoder.") for layer in encoder.metadata.layers)
    assert encoder.metadata.routing["capacity"]
    assert traces["switch-8-shape-decoder"].metadata.stream == "decoder"
    for trace in traces.values():
        counts = trace.statistics.dispatch_count.sum(-1)
        tokens = trace.statistics.token_count[:, None] * trace.metadata.top_k
        assert (counts == tokens).all()
