"""Slimming experts: exact cuts, exact scores, and students that stock transformers loads, in every family."""

import copy

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, OlmoeForCausalLM, PhimoeConfig

from mfgjax_extract.slimming import choose_units, neuron_scores, plan_slimming, slim
from mfgjax_extract.slimming.layout import NOT_SLIMMED, expert_blocks
from mfgjax_extract.slimming.observe import observing
from mfgjax_extract.slimming.plan import usable_width

from .tiny_models import FAMILIES, tiny_inputs, tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")

IDS = torch.randint(3, 60, (6, 6), generator=torch.Generator().manual_seed(1))
FLOAT32 = 3e-5
"""Sums of 16 terms in another order, through three layers with norms."""

LOADED_ANEW = {"zaya": "from_pretrained of transformers 5.23.0 resets the balancing biases"}


def output_of(model, inputs=None):
    inputs = inputs or {"input_ids": IDS, "use_cache": False}
    return next(v for v in model(**inputs).to_tuple() if isinstance(v, torch.Tensor))


def projected(model, ids):
    """A loss with a gradient for every family: norms make that of a sum of squares vanish."""
    found = output_of(model, {"input_ids": ids, "use_cache": False})
    weight = torch.randn(found.shape[1:], generator=torch.Generator().manual_seed(3))
    return (found * weight.to(found.dtype)).sum()


def cross_entropy(model, ids):
    """Of the next token; transformers' own loss rounds to float32."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def random_choice(plan):
    """Other units for every expert."""
    scores = neuron_scores(torch.nn.Module(), plan.blocks, [], projected, "random")
    return choose_units(plan, scores.values)


@torch.no_grad()
def silence(model, plan, kept):
    """Zero what reads the units that are not kept: the model that slimming must equal."""
    for block, index in zip(plan.blocks, kept, strict=True):
        weight = model.get_parameter(block.output.name)
        mask = torch.zeros((*index.shape[:-1], block.units)).scatter_(-1, index, 1.0)
        shape = [1] * weight.ndim
        shape[block.output.axis] = -1
        if block.experts is None:
            mask = mask.repeat_interleave(block.output.inner)
        else:
            shape[0] = len(mask)
        weight.mul_(mask.reshape(shape))


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - set(NOT_SLIMMED)))
def test_a_student_of_every_family(family, tmp_path):
    """Cutting neurons is silencing them, to rounding; the student is a model that stock code loads."""
    if family not in CONFIG_MAPPING:
        pytest.skip(f"{family} is not in this transformers")
    model = tiny_model(family)
    inputs = tiny_inputs(model)
    plan = plan_slimming(model, width=8)
    kept = random_choice(plan)
    assert any(not torch.equal(k[0], k[1]) for k in kept if k.ndim == 2)
    student = slim(model, plan, kept)
    student.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path).eval()
    if family in LOADED_ANEW:
        for name, buffer in loaded.named_buffers():
            buffer.copy_(student.get_buffer(name))
    scored = neuron_scores(model, plan.blocks, [IDS], projected)
    assert all(v.isfinite().all() and v.max() > 0 for v in scored.values)
    with torch.no_grad():
        cut = output_of(student, inputs)
        assert torch.equal(output_of(loaded, inputs), cut)
        whole = output_of(model, inputs)
        silence(model, plan, kept)
        silent = output_of(model, inputs)
    assert (whole - cut).abs().max() > 100 * FLOAT32  # something was cut
    torch.testing.assert_close(cut, silent, rtol=0, atol=FLOAT32 * float(silent.abs().max()))


@pytest.mark.parametrize("family", sorted(NOT_SLIMMED))
def test_families_without_fused_experts_are_refused_with_the_reason(family):
    with pytest.raises(ValueError, match=f"{family}: its experts cannot be slimmed: "):
        expert_blocks(tiny_model(family))


@pytest.fixture(scope="module")
def exact(olmoe_config):
    """A float64 OLMoE on the eager experts: grouped kernels take no float64."""
    torch.manual_seed(0)
    model = OlmoeForCausalLM(copy.deepcopy(olmoe_config)).double().eval()
    model.set_experts_implementation("eager")
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


def test_identities_in_float64(exact):
    plan = plan_slimming(exact, width=8)
    same = slim(exact, plan, random_choice(plan))
    with torch.no_grad():
        assert torch.equal(output_of(same), output_of(exact))  # full width: the same model
        shuffled = [torch.stack([torch.randperm(8) for _ in range(8)]) for _ in plan.blocks]
        other = slim(exact, plan, shuffled)
        torch.testing.assert_close(output_of(other), output_of(exact), rtol=0, atol=1e-12)
        narrow = plan_slimming(exact, width=3)
        kept = random_choice(narrow)
        student = slim(exact, narrow, kept)
        silent = copy.deepcopy(exact)
        silence(silent, narrow, kept)
        torch.testing.assert_close(output_of(student), output_of(silent), rtol=0, atol=1e-12)


def test_the_score_is_the_derivative_of_a_mask(exact):
    """Against the up rows (linear in the unit as well) and central differences."""
    text = IDS[:1]
    blocks = expert_blocks(exact)
    values = neuron_scores(exact, blocks, [text], cross_entropy).values
    squares = neuron_scores(exact, blocks, [text], cross_entropy, "fisher").values
    up = exact.model.layers[1].mlp.experts.gate_up_proj
    down = exact.model.layers[1].mlp.experts.down_proj
    loss = cross_entropy(exact, text)
    gradient = torch.autograd.grad(loss, up)[0]
    by_up = (up * gradient)[:, 8:].sum(-1).detach()
    by_gate = (up * gradient)[:, :8].sum(-1).detach()
    routed = (by_up != 0).any(-1)
    assert 3 < routed.sum() < 8
    torch.testing.assert_close(values[1][routed], by_up.abs()[routed], rtol=1e-10, atol=1e-16)
    torch.testing.assert_close(squares[1][routed], by_up[routed] ** 2, rtol=1e-10, atol=1e-16)
    assert not torch.allclose(by_gate.abs(), by_up.abs(), rtol=0.05)
    expert, unit = divmod(int(by_up.abs().argmax()), 8)

    @torch.no_grad()
    def at(mask):
        column = down[expert, :, unit].clone()
        down[expert, :, unit] *= mask
        value = cross_entropy(exact, text)
        down[expert, :, unit] = column
        return float(value)

    slope = (
        at(1.01) - at(0.99)
    ) / 0.02  # OLMoE's norms are in float32: a smaller step is all noise
    assert slope == pytest.approx(float(by_up[expert, unit]), rel=1e-3)


def test_what_is_saved_has_the_size_of_the_formula(exact, tmp_path):
    student = slim(exact, plan := plan_slimming(exact, width=4), random_choice(plan)).float()
    removed = 2 * 8 * 3 * 16 * 4  # layers, experts, maps, hidden, neurons
    count = sum(p.numel() for p in exact.parameters()) - removed
    assert sum(p.numel() for p in student.parameters()) == count
    student.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    header = int.from_bytes(file.read_bytes()[:8], "little")
    assert file.stat().st_size == 8 + header + 4 * count


def test_experts_that_no_text_reached_are_kept_by_magnitude_and_counted(exact):
    model = exact
    text = IDS[:1]
    scored = neuron_scores(model, expert_blocks(model), [text], cross_entropy)
    by_size = neuron_scores(model, expert_blocks(model), [], cross_entropy, "magnitude")
    served = [torch.zeros(8), torch.zeros(8)]
    place = {id(layer.mlp.experts): i for i, layer in enumerate(model.model.layers)}

    def count(module, expert, *_):
        served[place[id(module)]][expert] += 1

    with observing(model, count):
        watched = output_of(model, {"input_ids": text[:, :-1]})  # the last predicts nothing
    plain = output_of(model, {"input_ids": text[:, :-1]})
    torch.testing.assert_close(watched, plain, rtol=0, atol=1e-12)
    idle = [(layer == 0).nonzero().flatten() for layer in served]
    assert scored.unrouted == sum(map(len, idle)) > 0
    assert scored.experts == 16 and scored.rare == 16 - scored.unrouted  # one text: all are rare
    for mine, size, rows in zip(scored.values, by_size.values, idle, strict=True):
        assert torch.equal(mine[rows], size[rows].double())


def test_a_full_divergence_from_the_teacher_scores_nothing_at_the_first_stage(exact):
    """Student and teacher are one model there; cross-entropy scores it."""

    def divergence(model, ids):
        with torch.no_grad():
            target = output_of(exact, {"input_ids": ids}).softmax(-1)
        return torch.nn.functional.kl_div(
            output_of(model, {"input_ids": ids}).log_softmax(-1), target, reduction="batchmean"
        )

    student = copy.deepcopy(exact)
    with pytest.raises(ValueError, match="no gradient at this model"):
        neuron_scores(student, expert_blocks(student), [IDS], divergence)
    assert not any(p.grad is not None for p in student.parameters())


def test_widths(exact):
    assert [usable_width(w, torch.float32) for w in (1, 4, 5, 12)] == [4, 4, 8, 12]
    assert [usable_width(w, torch.bfloat16) for w in (1, 8, 12)] == [8, 8, 16]
    for width in (0, 9):
        with pytest.raises(ValueError, match=f"width {width}: the experts have 8 neurons"):
            plan_slimming(exact, width=width)
    with pytest.raises(ValueError, match="nothing to slim"):
        plan_slimming(exact)
    with pytest.raises(ValueError, match="one of taylor, fisher"):
        neuron_scores(exact, [], [], cross_entropy, "best")


def test_grouped_kernels_still_want_what_widths_are_rounded_to(olmoe_config):
    """If this fails, torch takes any width now, and `usable_width` can go."""
    config = copy.deepcopy(olmoe_config)
    config.intermediate_size = 5
    model = OlmoeForCausalLM(config)
    model.set_experts_implementation("grouped_mm")
    with pytest.raises(RuntimeError, match="multiple of 16 bytes"):
        model(IDS)


def phi(**changes):
    """The shape of Phi-tiny-MoE: heads times head_dim is not the hidden size."""
    sizes = {"hidden_size": 32, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}
    rest = {
        "vocab_size": 64,
        "intermediate_size": 16,
        "num_hidden_layers": 2,
        "num_local_experts": 4,
    }
    config = PhimoeConfig(**(sizes | rest | {"sliding_window": 8, "pad_token_id": 0} | changes))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_phi_loses_neurons_and_whole_head_groups(tmp_path):
    model = phi()
    plan = plan_slimming(model, width=8, head_groups=2)
    kinds = [block.kind for block in plan.blocks]
    assert kinds == ["experts", "experts", "heads", "heads"]
    scored = neuron_scores(model, plan.blocks, [IDS], cross_entropy)
    kept = choose_units(plan, scored.values)
    student = slim(model, plan, kept)
    attention = student.model.layers[0].self_attn
    assert attention.q_proj.weight.shape == (4 * 8, 32)
    assert attention.k_proj.weight.shape == (2 * 8, 32)
    student.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    silent = copy.deepcopy(model)
    silence(silent, plan, kept)
    with torch.no_grad():
        assert torch.equal(output_of(loaded), output_of(student))
        torch.testing.assert_close(output_of(student), output_of(silent), rtol=0, atol=1e-6)


def test_heads_that_cannot_be_cut_are_refused(exact):
    """OLMoE builds the norm of its heads as wide as the hidden size, whatever the heads."""
    with pytest.raises(ValueError, match="q_norm"):
        plan_slimming(exact, head_groups=1)
    with pytest.raises(ValueError, match="not 2 heads in four plain maps"):
        plan_slimming(tiny_model("deepseek_v3"), head_groups=1)
    with pytest.raises(ValueError, match="9 head groups: there are 2"):
        plan_slimming(exact, head_groups=9)
