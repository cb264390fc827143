"""The trainer callback: which steps, which sequences, and that training is not disturbed."""

import copy
import gc
import itertools
from contextlib import nullcontext

import pytest
import torch
from transformers import OlmoeForCausalLM, Trainer, TrainingArguments

from mfgjax_extract.callback import RoutingCallback

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")


@pytest.fixture
def trainer_of(olmoe_config, tmp_path):
    pytest.importorskip("accelerate")

    def build(callback, **arguments):
        torch.manual_seed(0)
        model = OlmoeForCausalLM(copy.deepcopy(olmoe_config))
        ids = torch.randint(1, 60, (32, 6))
        mask = torch.ones_like(ids)
        mask[:, 5] = 0
        data = [{"input_ids": i, "labels": i, "attention_mask": m} for i, m in zip(ids, mask)]  # noqa: B905
        settings = {"max_steps": 4, "per_device_train_batch_size": 2} | arguments
        args = TrainingArguments(
            output_dir=str(tmp_path),
            gradient_accumulation_steps=2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            **settings,
        )
        callbacks = [] if callback is None else [callback]
        return Trainer(model=model, args=args, train_dataset=data, callbacks=callbacks)

    return build


@pytest.fixture
def train(trainer_of):
    def run(callback, **arguments):
        trainer = trainer_of(callback, **arguments)
        trainer.train()
        return trainer.model

    return run


def hooks_of(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def raise_at(model, forward, message):
    """The model fails once, in its forward of this number."""
    count = itertools.count()

    def fail(_module, _args):
        if next(count) == forward:
            raise RuntimeError(message)

    return model.model.norm.register_forward_pre_hook(fail)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_statistics_of_sampled_steps(train, checkpointing):
    seen = []
    train(RoutingCallback(seen.append, every=2), gradient_checkpointing=checkpointing)
    assert [s.step for s in seen] == [0, 2, 3]  # the last one too
    for s in seen:
        assert s.layers == ("model.layers.0.mlp.gate", "model.layers.1.mlp.gate")
        assert s.token_count.tolist() == [5] * 4  # two batches of two, one pad each
        assert s.logit_sum.shape == (4, 2, 8)
        assert (s.dispatch_count.sum(-1) == 5 * 3).all()
        torch.testing.assert_close(s.probability_sum.sum(-1), torch.full((4, 2), 5.0))
        centre = s.logit_sum - s.logit_sum.mean(-1, keepdim=True)
        assert (s.centred_square_sum >= centre**2 / 5 - 1e-5).all()  # Cauchy-Schwarz


def test_weights_are_those_of_a_run_without_the_callback(train):
    with_callback = train(RoutingCallback(lambda _s: None, every=1))
    without = train(None)
    pairs = zip(with_callback.parameters(), without.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_a_run_that_raised_and_starts_again_counts_once(trainer_of):
    seen = []
    callback = RoutingCallback(seen.append, every=1)
    trainer = trainer_of(callback)
    handle = raise_at(trainer.model, 5, "stopped")
    with pytest.raises(RuntimeError, match="stopped"):
        trainer.train()
    handle.remove()
    assert [s.step for s in seen] == [0, 1]
    seen.clear()
    trainer.train()
    assert [s.step for s in seen] == [0, 1, 2, 3]
    assert all(s.token_count.tolist() == [5] * 4 for s in seen)
    assert hooks_of(trainer.model) == 0


def test_a_batch_size_found_by_failing_counts_once(trainer_of):
    seen = []
    callback = RoutingCallback(seen.append, every=1)
    trainer = trainer_of(
        callback, per_device_train_batch_size=3, auto_find_batch_size=True, max_steps=2
    )

    def full(_module, args):
        if args[0].shape[0] > 2:
            raise RuntimeError("CUDA out of memory.")

    trainer.model.model.norm.register_forward_pre_hook(full)
    trainer.train()
    assert [(s.step, s.token_count.tolist()) for s in seen] == [(0, [5] * 4), (1, [5] * 4)]


@pytest.mark.parametrize("ending", ["with", "close", "garbage"])
def test_hooks_of_a_run_that_raised_can_be_ended(trainer_of, ending):
    callback = RoutingCallback(lambda _s: None, every=1)
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


def test_forwards_without_gradients_are_not_training(trainer_of):
    """A reference model's or generation's, within the step."""
    seen = []
    trainer = trainer_of(RoutingCallback(seen.append, every=1), max_steps=1)
    compute = trainer.compute_loss

    def twice(model, inputs, *args, **kwargs):
        with torch.no_grad():
            model(**inputs)
        return compute(model, inputs, *args, **kwargs)

    trainer.compute_loss = twice
    trainer.train()
    assert [s.token_count.tolist() for s in seen] == [[5] * 4]
