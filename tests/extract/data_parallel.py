"""Two gloo ranks, trained under the monitor in three ways; FOLDER/rank<k>.json has counts, as a check on both.

python data_parallel.py FOLDER      with WORLD_SIZE=2, MASTER_ADDR and MASTER_PORT in the environment
"""

import json
import os
import sys
from multiprocessing import get_context
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel
from transformers import OlmoeConfig, OlmoeForCausalLM, Trainer, TrainingArguments

from benchmarks.studies import faulty_moe as small
from mfgjax_extract.callback import MonitorCallback
from mfgjax_extract.loop import watch_training

TOP_K, EXPERTS = 3, 8


class Keep:
    def __init__(self, stop_at=None):
        self.counts, self.stop_at, self.stop_requested = [], stop_at, False

    def observe(self, step, layers, **run):
        self.counts.append([x["count"].tolist() for x in layers.values()])
        self.stop_requested = step == self.stop_at


class Recounting(Trainer):
    """Counts every batch with a forward of its own, without gradients."""

    def training_step(self, model, inputs, *args, **kwargs):
        with torch.no_grad():
            plain = getattr(model, "module", model)
            out = plain(**inputs, output_router_logits=True)
        kept = inputs["attention_mask"].flatten().bool()
        counts = [
            torch.bincount(z[kept].topk(TOP_K).indices.flatten(), minlength=EXPERTS).tolist()
            for z in out.router_logits
        ]
        self.__dict__.setdefault("own", []).append(counts)
        return super().training_step(model, inputs, *args, **kwargs)


def with_a_trainer(folder):
    """Two batches a step; every third step is sampled, and the monitor stops the run at the second."""
    torch.manual_seed(0)
    config = OlmoeConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_experts=EXPERTS,
        num_experts_per_tok=TOP_K,
        pad_token_id=None,
    )
    ids = torch.randint(1, 60, (64, 6))
    mask = torch.ones_like(ids)
    mask[::3, 4:] = 0
    data = [
        {"input_ids": i, "labels": i, "attention_mask": m} for i, m in zip(ids, mask, strict=True)
    ]
    args = TrainingArguments(
        output_dir=folder,
        max_steps=6,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        use_cpu=True,
        ddp_backend="gloo",
    )
    seen = Keep(stop_at=3)
    trainer = Recounting(
        model=OlmoeForCausalLM(config),
        args=args,
        train_dataset=data,
        callbacks=[MonitorCallback(seen, every=3)],
    )
    trainer.train()
    assert args.world_size == 2
    return {"seen": seen.counts, "own": trainer.own, "steps": trainer.state.global_step}


def with_a_loop(rank, group):
    """Every second step is sampled. With a group of its own a rank has the tokens of the other."""
    torch.manual_seed(0)
    model = small.Model(small.Plan("aux"))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    draw = torch.Generator().manual_seed(rank if group is None else 0)
    seen, recount, own = Keep(), [], []
    model.layers[0].experts.register_forward_pre_hook(
        lambda _m, args: recount.append(args[1]) if torch.is_grad_enabled() else None
    )
    with watch_training(model, optimizer, seen, every=2, group=group):
        for _ in range(4):
            batch = small.batch(draw, 4)
            out = parallel(**batch)
            kept = recount[-1][batch["attention_mask"].flatten().bool()]
            own.append(torch.bincount(kept.flatten(), minlength=small.EXPERTS).tolist())
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return {"seen": seen.counts, "own": own}


def main(folder, rank):
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    found = {"trainer": with_a_trainer(folder)}  # opens the process group
    assert rank == dist.get_rank()
    alone = [dist.new_group([r]) for r in range(2)]
    found |= {"distinct": with_a_loop(rank, None), "replicas": with_a_loop(rank, alone[rank])}
    Path(folder, f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    # Forked: what they import is most of their time.
    ranks = [get_context("fork").Process(target=main, args=(sys.argv[1], r)) for r in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    sys.exit(any(process.exitcode for process in ranks))
