"""One of two gloo ranks: trains four steps under the monitor and prints counts, as a check on both.

python data_parallel.py RANK PORT-FILE distinct|replicas
"""

import json
import sys

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from benchmarks.studies import silent_faults as small
from mfgjax_extract.loop import watch_training


class Keep:
    stop_requested = False

    def __init__(self):
        self.counts = []

    def observe(self, step, layers, **run):
        self.counts.append([x["count"].tolist() for x in layers.values()])


def main(rank, store, tokens):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    alone = [dist.new_group([r]) for r in range(2)]
    torch.manual_seed(0)
    model = small.Model(small.Plan("aux"))
    parallel = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    draw = torch.Generator().manual_seed(rank if tokens == "distinct" else 0)
    seen, recount = Keep(), []
    model.layers[0].experts.register_forward_pre_hook(
        lambda _m, args: recount.append(args[1]) if torch.is_grad_enabled() else None
    )
    group = None if tokens == "distinct" else alone[rank]
    own = []
    with watch_training(model, optimizer, seen, every=2, group=group):
        for _ in range(4):
            batch = small.batch(draw, 4)
            out = parallel(**batch)
            kept = batch["attention_mask"].flatten().bool()
            own.append(np.bincount(recount[-1][kept].flatten().numpy(), minlength=small.EXPERTS))
            out.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    print(json.dumps({"seen": seen.counts, "own": [c.tolist() for c in own]}))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
