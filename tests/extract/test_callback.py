"""The monitor's torch front: which steps and tokens are counted, and that training is not disturbed."""

import copy
import gc
import itertools
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from transformers import OlmoeForCausalLM, Trainer, TrainingArguments

from mfgjax.monitor import Fault, Monitor
from mfgjax_extract.callback import MonitorCallback
from mfgjax_extract.checks import RoutingError

pytestmark = [
    pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad"),
]
TOP_K, EXPERTS = 3, 8


class Keep:
    """Keeps what it is handed."""

    def __init__(self, stop_at=None):
        self.steps = {}
        self.runs = {}
        self.stop_at = stop_at
        self.stop_requested = False

    def observe(self, step, layers, **run):
        self.steps[step] = layers
        self.runs[step] = run
        self.stop_requested = step == self.stop_at

    def counts(self):
        return {s: np.stack([x["count"] for x in v.values()]) for s, v in self.steps.items()}


class Recounting(Trainer):
    """Counts offline: every batch goes through the model before it is trained on, without gradients."""

    def training_step(self, model, inputs, *args, **kwargs):
        with torch.no_grad(), self.compute_loss_context_manager():
            plain = getattr(model, "_orig_mod", model)
            out = plain(
                input_ids=inputs["input_ids"],
                attention_mask=inputs["attention_mask"],
                output_router_logits=True,
            )
        kept = inputs["attention_mask"].flatten().bool()
        counts = [
            torch.bincount(z[kept].softmax(-1).topk(TOP_K).indices.flatten(), minlength=EXPERTS)
            for z in out.router_logits
        ]
        self.__dict__.setdefault("recount", []).append(torch.stack(counts).numpy())
        return super().training_step(model, inputs, *args, **kwargs)


@pytest.fixture
def trainer_of(olmoe_config, tmp_path):
    pytest.importorskip("accelerate")

    def build(callback, pad=slice(5, 6), kind=Trainer, adapt=False, **arguments):
        torch.manual_seed(0)
        model = OlmoeForCausalLM(copy.deepcopy(olmoe_config))
        if adapt:
            adapt_attention(model)
        ids = torch.randint(1, 60, (32, 6))
        mask = torch.ones_like(ids)
        mask[:, pad] = 0
        data = [{"input_ids": i, "labels": i, "attention_mask": m} for i, m in zip(ids, mask)]  # noqa: B905
        settings = {"max_steps": 4, "per_device_train_batch_size": 2, "save_strategy": "no"}
        args = TrainingArguments(
            output_dir=str(tmp_path),
            gradient_accumulation_steps=2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            **(settings | arguments),
        )
        callbacks = [] if callback is None else [callback]
        return kind(
            model=model, args=args, train_dataset=data, eval_dataset=data[:4], callbacks=callbacks
        )

    return build


class LowRank(nn.Module):
    """A frozen linear map with an adapter that is trained, as LoRA has it."""

    def __init__(self, base):
        super().__init__()
        self.base = base
        self.a = nn.Parameter(torch.randn(2, base.in_features) * 0.1)
        self.b = nn.Parameter(torch.zeros(base.out_features, 2))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def adapt_attention(model):
    model.requires_grad_(False)
    for layer in model.model.layers:
        layer.self_attn.q_proj = LowRank(layer.self_attn.q_proj)


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def raise_at(model, forward, message):
    """The model fails once, in its forward of this number."""
    count = itertools.count()

    def fail(_module, _args):
        if next(count) == forward:
            raise RuntimeError(message)

    return model.model.norm.register_forward_pre_hook(fail)


CASES = {
    "accumulation, right padding": {},
    "left padding": {"pad": slice(0, 2)},
    "checkpointing": {"gradient_checkpointing": True},
    "reentrant checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": True},
    },
    "evaluation between": {"eval_strategy": "steps", "eval_steps": 1},
    "bf16": {"bf16": True},
    "adapter": {"adapt": True},
    "compiled": {"torch_compile": True, "torch_compile_backend": "eager"},
}


@pytest.mark.parametrize("case", CASES)
def test_counts_are_those_of_an_offline_recount(trainer_of, case):
    seen = Keep()
    trainer = trainer_of(MonitorCallback(seen, every=1), kind=Recounting, **CASES[case])
    trainer.train()
    assert list(seen.steps) == [0, 1, 2, 3]
    for step, counts in seen.counts().items():
        np.testing.assert_array_equal(counts, sum(trainer.recount[2 * step : 2 * step + 2]))
        for layer in seen.steps[step].values():
            assert layer["tokens"] == (16 if case == "left padding" else 20)
            assert layer["count"].sum() + layer["padding"].sum() == 24 * TOP_K
            assert layer["probability_sum"].sum() == pytest.approx(layer["tokens"], abs=1e-5)


def test_steps_sampled_and_resumed(trainer_of, tmp_path):
    seen, again = Keep(), Keep()
    trainer_of(MonitorCallback(seen, every=2), save_strategy="steps", save_steps=2).train()
    assert list(seen.steps) == [0, 2, 3]  # the last one too
    trainer_of(MonitorCallback(again, every=2)).train(
        resume_from_checkpoint=str(tmp_path / "checkpoint-2")
    )
    assert list(again.steps) == [2, 3]
    for step, counts in again.counts().items():
        np.testing.assert_array_equal(counts, seen.counts()[step])


def test_weights_are_those_of_a_run_without_the_callback(trainer_of):
    watched, plain = trainer_of(MonitorCallback(Keep(), every=1)), trainer_of(None)
    watched.train()
    plain.train()
    pairs = zip(watched.model.parameters(), plain.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_one_copy_a_sampled_step_and_none_besides(trainer_of, monkeypatch):
    copies = []
    plain = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: copies.append(t.numel()) or plain(t))
    trainer_of(MonitorCallback(Keep(), every=2)).train()
    assert len(copies) == 3


def test_a_run_that_raised_and_starts_again_counts_once(trainer_of):
    seen = Keep()
    trainer = trainer_of(MonitorCallback(seen, every=1))
    handle = raise_at(trainer.model, 5, "stopped")
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train()
    handle.remove()
    assert list(seen.steps) == [0, 1]
    seen.steps.clear()
    trainer.train()
    assert {s: v.sum(-1).tolist() for s, v in seen.counts().items()} == {
        s: [60, 60] for s in range(4)
    }
    assert hooks_of(trainer.model) == 0


def test_a_batch_size_found_by_failing_counts_once(trainer_of):
    seen = Keep()
    settings = {"per_device_train_batch_size": 3, "auto_find_batch_size": True, "max_steps": 2}
    trainer = trainer_of(MonitorCallback(seen, every=1), **settings)

    def full(_module, args):
        if args[0].shape[0] > 2:
            raise RuntimeError("CUDA out of memory.")

    trainer.model.model.norm.register_forward_pre_hook(full)
    trainer.train()
    assert [c.sum(-1).tolist() for c in seen.counts().values()] == [[60, 60]] * 2


@pytest.mark.parametrize("ending", ["with", "close", "garbage"])
def test_hooks_of_a_run_that_raised_can_be_ended(trainer_of, ending):
    callback = MonitorCallback(Keep(), every=1)
    trainer = trainer_of(callback)
    model = trainer.model
    raise_at(model, 1, "stopped")
    with callback if ending == "with" else nullcontext(), pytest.raises(RuntimeError):
        trainer.train()
    if ending == "close":
        assert hooks_of(model) > 1
        callback.close()
    elif ending == "garbage":
        del callback, trainer
        gc.collect()
    assert hooks_of(model) == 1  # the one that raised


def test_the_monitor_stops_training(trainer_of):
    seen = Keep(stop_at=1)
    trainer = trainer_of(MonitorCallback(seen, every=1))
    trainer.train()
    assert trainer.state.global_step == 2


def test_an_olmoe_with_the_defaults_of_transformers_is_told_of_its_loss(trainer_of):
    """`output_router_logits` is False there: the coefficient of the configuration does nothing."""
    monitor = Monitor()
    trainer_of(MonitorCallback(monitor, every=1), max_steps=3).train()
    assert {a.fault for a in monitor.alarms} == {Fault.AUX_NOT_COMPUTED}
    assert [a.layer for a in monitor.alarms] == [f"model.layers.{i}.mlp.gate" for i in range(2)]


def test_nan_is_an_alarm_and_no_crash(trainer_of):
    monitor = Monitor()
    trainer = trainer_of(MonitorCallback(monitor, every=1), max_steps=1)

    def poison(_module, args):
        return (args[0].index_fill(1, torch.tensor([0]), float("nan")),)

    trainer.model.model.layers[1].mlp.register_forward_pre_hook(poison)
    trainer.train()
    (alarm,) = [a for a in monitor.alarms if a.fault is Fault.LOGITS_NOT_FINITE]
    assert (alarm.step, alarm.layer) == (0, "model.layers.1.mlp.gate")
    assert "4 of 20 tokens" in alarm.evidence


def test_no_router_says_what_was_looked_for(trainer_of):
    trainer = trainer_of(MonitorCallback(Keep(), layers="encoder"))
    with pytest.raises(RoutingError, match=r"none of the 2 routers .* 'encoder' finds"):
        trainer.train()
    trainer = trainer_of(MonitorCallback(Keep()))
    trainer.model.model.layers = nn.ModuleList()
    with pytest.raises(RoutingError, match="ends in Router, Gate or TopKGating"):
        trainer.train()


def test_a_monitor_that_fails_later_is_named_once_and_dropped(trainer_of):
    class Failing(Keep):
        def observe(self, step, layers, **run):
            if step > 0:
                raise OSError("disk full")

    trainer = trainer_of(MonitorCallback(Failing(), every=1))
    with pytest.warns(UserWarning, match="disk full") as caught:
        trainer.train()
    assert len(caught) == 1
    assert trainer.state.global_step == 4
