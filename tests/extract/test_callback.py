"""The trainer callback: which steps, which sequences, and that training is not disturbed."""

import copy

import pytest
import torch
from transformers import OlmoeForCausalLM, Trainer, TrainingArguments

from mfgjax_extract.callback import RoutingCallback

pytestmark = pytest.mark.filterwarnings("ignore:.gradient_checkpointing:FutureWarning")


@pytest.fixture
def train(olmoe_config, tmp_path):
    pytest.importorskip("accelerate")

    def run(callback, **arguments):
        torch.manual_seed(0)
        model = OlmoeForCausalLM(copy.deepcopy(olmoe_config))
        ids = torch.randint(1, 60, (32, 6))
        mask = torch.ones_like(ids)
        mask[:, 5] = 0
        data = [{"input_ids": i, "labels": i, "attention_mask": m} for i, m in zip(ids, mask)]  # noqa: B905
        args = TrainingArguments(
            output_dir=str(tmp_path),
            max_steps=4,
            per_device_train_batch_size=2,
            gradient_accumulation_steps=2,
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
            save_strategy="no",
            **arguments,
        )
        callbacks = [] if callback is None else [callback]
        Trainer(model=model, args=args, train_dataset=data, callbacks=callbacks).train()
        return model

    return run


@pytest.mark.parametrize("checkpointing", [False, True])
def test_statistics_of_sampled_steps(train, checkpointing):
    seen = []
    train(RoutingCallback(seen.append, every=3), gradient_checkpointing=checkpointing)
    assert [s.step for s in seen] == [0, 3]
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
