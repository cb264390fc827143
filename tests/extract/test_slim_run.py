"""Slimming runs: what students learn from, runs that are killed and go on, baselines of fewer experts."""

import copy
import json

import pytest
import torch
from transformers import AutoModelForCausalLM, OlmoeForCausalLM
from typer.testing import CliRunner

from mfgjax.trace import read_sweep
from mfgjax.trace.sweep import token_files
from mfgjax_extract.cli import app
from mfgjax_extract.slimming.distil import Distillation, distil, windows_of
from mfgjax_extract.slimming.fewer import drop_experts, expert_use, merge_experts
from mfgjax_extract.slimming.loss import divergence, target_of
from mfgjax_extract.slimming.run_settings import stage_widths

from .conftest import letter_tokenizer
from .tiny_models import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

IDS = torch.randint(3, 27, (4, 10), generator=torch.Generator().manual_seed(1))
ROW = torch.randint(3, 27, (400,), generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def teacher(olmoe_config):
    config = copy.deepcopy(olmoe_config)
    config.intermediate_size = 16
    torch.manual_seed(0)
    return OlmoeForCausalLM(config).eval()


def logits(seed, tokens=5):
    return torch.randn(2, 3, tokens, generator=torch.Generator().manual_seed(seed)).double()


def test_divergence_is_the_kl_of_the_top_tokens_and_one_bucket_for_the_rest():
    p, q = (logits(seed).softmax(-1) for seed in (0, 1))
    top = p.topk(2, dim=-1).indices
    pairs = [(x.gather(-1, top), 1 - x.gather(-1, top).sum(-1, keepdim=True)) for x in (p, q)]
    a, b = (torch.cat(pair, dim=-1) for pair in pairs)
    want = (a * (a / b).log()).sum(-1).mean()
    found = divergence(logits(1), target_of(logits(0), 2))
    assert float(found) == pytest.approx(float(want), rel=1e-5)
    whole = divergence(logits(1), target_of(logits(0), 8))
    assert float(whole) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-5)
    own = logits(0).requires_grad_()
    zero = divergence(own, target_of(own.detach(), 2))
    zero.backward()
    assert (
        abs(float(zero)) < 1e-6 and own.grad.abs().max() < 1e-7
    )  # unbiased: at rest at the teacher


def test_a_student_comes_nearer_to_its_teacher_and_a_killed_training_goes_on(teacher, tmp_path):
    def run(student, state=None, killed_at=None):
        def report(step, _loss):
            if step == killed_at:
                raise KeyboardInterrupt

        how = Distillation(8, peak_lr=1e-2, warmup=1, text_weight=0.0, save_every=3)

        @torch.no_grad()
        def teach(ids):
            return target_of(teacher(input_ids=ids).logits, 8)

        distil(student, teach, lambda step: windows_of(ROW, step, 0, 4, 10), how, state, report)
        return student

    torch.manual_seed(5)
    start = OlmoeForCausalLM(teacher.config).eval()

    def gap(model):
        with torch.no_grad():
            return float(divergence(model(IDS).logits, target_of(teacher(IDS).logits, 8)))

    whole = run(copy.deepcopy(start))
    assert gap(whole) < gap(start)
    state = tmp_path / "state.pt"
    with pytest.raises(KeyboardInterrupt):
        run(copy.deepcopy(start), state, killed_at=5)
    assert torch.load(state, weights_only=True)["step"] == 3
    resumed = run(copy.deepcopy(start), state)
    assert not state.exists()
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)


def test_routers_only_leaves_everything_else(teacher):
    student = copy.deepcopy(teacher)
    how = Distillation(2, peak_lr=1e-2, routers_only=True)
    distil(student, None, lambda step: windows_of(ROW, step, 0, 4, 10), how)
    for (name, a), b in zip(teacher.named_parameters(), student.parameters(), strict=True):
        assert torch.equal(a, b) != name.endswith("mlp.gate.weight"), name


def test_stages_shrink_by_equal_factors_to_widths_that_kernels_take():
    assert stage_widths(32, 4, 2, torch.float32) == [12, 4]
    assert stage_widths(6400, 448, 3, torch.bfloat16) == [2640, 1088, 448]
    assert stage_widths(32, 13, 1, torch.float32) == [16]
    with pytest.raises(ValueError, match=r"8 -> 8 -> 4 .* do not fall at every stage"):
        stage_widths(8, 4, 2, torch.float32)
    with pytest.raises(ValueError, match="--width 33: the experts have 32"):
        stage_widths(32, 33, 1, torch.float32)


def test_fewer_experts(teacher):
    """All of them are the same model; REAP and frequency by hand; what the router chooses is needed."""
    with torch.no_grad():
        want = teacher(IDS).logits
        for same in (drop_experts(teacher, 8, [IDS]), merge_experts(teacher, 8, [IDS])):
            torch.testing.assert_close(same(IDS).logits, want, rtol=0, atol=1e-6)
    seen = {}
    experts = teacher.model.layers[0].mlp.experts
    handle = experts.register_forward_pre_hook(lambda _module, args: seen.update(args=args))
    with torch.no_grad():
        teacher(IDS)
    handle.remove()
    x, index, weight = seen["args"]
    (count, norm), _ = expert_use(teacher, [IDS])
    assert torch.equal(count, torch.bincount(index.flatten(), minlength=8).float())
    gate, up = (experts.gate_up_proj[2] @ x.T).chunk(2)
    out = experts.down_proj[2] @ (torch.nn.functional.silu(gate) * up)
    by_hand = (out.norm(dim=0) * (weight * (index == 2)).sum(-1)).sum()
    assert float(norm[2]) == pytest.approx(float(by_hand), rel=1e-4)
    small = drop_experts(teacher, 4, [IDS], "frequency")
    kept = count.topk(4).indices.sort().values
    assert torch.equal(
        small.model.layers[0].mlp.gate.weight, teacher.model.layers[0].mlp.gate.weight[kept]
    )
    assert small.config.num_experts == 4
    with pytest.raises(ValueError, match="2 experts: the router chooses 3"):
        drop_experts(teacher, 2, [IDS])
    with pytest.raises(ValueError, match="sparsemixer's weights in evaluation are 1"):
        drop_experts(tiny_model("phimoe"), 4, [IDS])


@pytest.fixture(scope="module")
def folders(teacher, tmp_path_factory):
    """The teacher as a checkpoint, and texts."""
    folder = tmp_path_factory.mktemp("teacher")
    teacher.save_pretrained(folder)
    letter_tokenizer().save_pretrained(folder)
    draw = torch.Generator().manual_seed(3)
    words = torch.randint(97, 123, (40, 20), generator=draw).tolist()
    texts = folder / "texts.txt"
    texts.write_text("\n".join("".join(map(chr, word)) for word in words))
    return folder, texts


def command(folders, out, *more):
    folder, texts = folders
    sizes = ["--batch", "4", "--length", "10", "--score-texts", "8", "--lr", "1e-2"]
    run = ["slim", str(folder), "--texts", str(texts), "--out", str(out), "--tokens", "320"]
    return CliRunner().invoke(app, [*run, *sizes, "--json", *more])


def test_a_run_in_two_stages(folders, tmp_path, monkeypatch):
    result = command(folders, tmp_path / "run", "--width", "3")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    names = ["teacher", "step1-tokens0-width8-slimmed", "step4-tokens160-width8"]
    names += ["step5-tokens160-width4-slimmed", "step8-tokens320-width4"]
    assert [m["name"] for m in found["models"]] == names
    assert "width 3 is rounded up to 4" in result.stderr
    assert found["peak_memory_bytes"] > 1e7
    for model in found["models"][1:]:
        loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / model["name"])
        assert loaded.config.intermediate_size == model["width"]
        assert sum(p.numel() for p in loaded.parameters()) == model["parameters"]
    traces = tmp_path / "run" / "traces"
    assert read_sweep(traces).labels == ["0", "1", "4", "5", "8"]
    assert "step0-teacher" in token_files(traces)

    def trained_again(*_):
        raise AssertionError("a finished model was trained again")

    monkeypatch.setattr("mfgjax_extract.slimming.stages.distil", trained_again)
    again = command(folders, tmp_path / "run", "--width", "3")
    assert json.loads(again.stdout)["models"] == found["models"]
    other = command(folders, tmp_path / "run", "--width", "4")
    assert other.exit_code == 2 and "is another run (width 3, now 4)" in other.stderr


def test_a_teacher_with_another_tokenizer_is_refused(folders, tmp_path, teacher):
    tokenizer = letter_tokenizer()
    tokenizer.add_tokens(["the"])
    tokenizer.save_pretrained(tmp_path / "other")
    teacher.save_pretrained(tmp_path / "other")
    found = command(folders, tmp_path / "run", "--width", "4", "--teacher", str(tmp_path / "other"))
    assert found.exit_code == 2 and "another tokenizer" in found.stderr
    assert not (tmp_path / "run").exists()
