"""torch's compiler is imported by no training, since that costs each rank a second, and by everything that needs it."""

import json
import subprocess
import sys

TRAINING = """
import inspect, json, os, sys, torch
from torch import distributed, nn
from hpc_yolo.spec.recipe import Hyperparameters
from hpc_yolo.training.optimizer import Schedule, build_optimizer

distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
for kind in ("SGD", "Adam", "AdamW"):
    model = nn.Linear(3, 3)
    optimizer = build_optimizer(model, kind, Schedule(Hyperparameters(), 1, 1, 64))
    nn.parallel.DistributedDataParallel(model)(torch.ones(2, 3)).sum().backward()
    before = model.weight.clone()
    optimizer.step()
    assert not torch.equal(before, model.weight)
    optimizer.zero_grad()
    optimizer.load_state_dict(optimizer.state_dict())
distributed.destroy_process_group()
inspect.getmodule(inspect.currentframe())  # asks all modules for their files
imported = [name for name in sys.modules if name.startswith("torch._dynamo.")]
assert not imported, imported

for use in json.loads(sys.argv[1]):  # each in a process in which the compiler is not imported yet
    if not (child := os.fork()):
        exec(use)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, use
"""
# Ways in which libraries come to the compiler after a training, each with what then holds.
USES = [
    "assert torch._dynamo.disable(recursive=False)(abs)(-1) == torch._dynamo.disable(abs)(-1) == 1",
    "assert torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)) == 2",
    "assert torch._dynamo.config.verbose is not None",
    "assert torch._dynamo.utils.counters is not None",
    "import torch._dynamo.config as config; assert config is torch._dynamo.config",
    "from torch._dynamo.utils import counters; assert counters is torch._dynamo.utils.counters",
    "assert not hasattr(torch._dynamo, 'no_such_name')",
]


def test_training_does_not_import_the_compiler_and_its_first_use_does():
    command = [sys.executable, "-c", TRAINING, json.dumps(USES)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
