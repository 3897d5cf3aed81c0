"""One GPU: Qwen2.5-7B's shape with random weights through every phase of a step.

    kernels            attention by lengths, matrix products: one layer, right and how fast
    numbers_agree      sampled, forked and freshly computed numbers agree, tools included
    equals_generate    greedy decoding in float32 gives the ids of Hugging Face's generate
    step_float32, step_bfloat16
                       a step with AdamW on as many layers as fit: finite numbers, every matrix
                       moved, memory of each phase against the plan
    decode_speed       tokens per second against the reading of weights and caches, and generate
    anatomy            the kernels of a decode step by their time, and what a capture takes
    goes_on            train.py on the device: two steps, and a third by another process
    laptop, smollm2    train.py on the device: the bundled world; SmolLM2-135M-Instruct

On a CPU a small model goes through the same functions. A check that fails or breaks takes nothing
from the others; its name goes to args.failed, which ends the bench with an error.
"""

import gc
import traceback
from pathlib import Path

import torch

from extras.bench.gpu_kernels import anatomy, kernels
from extras.bench.gpu_learning import goes_on, laptop, smollm2
from extras.bench.gpu_model import REAL, SMALL, small_world
from extras.bench.gpu_numbers import equals_generate, numbers_agree
from extras.bench.gpu_speed import decode_speed
from extras.bench.gpu_step import step_bfloat16, step_float32
from extras.memory import GIB

CHECKS = {
    "kernels": kernels,
    "numbers_agree": numbers_agree,
    "equals_generate": equals_generate,
    "step_float32": step_float32,
    "step_bfloat16": step_bfloat16,
    "decode_speed": decode_speed,
    "anatomy": anatomy,
    "goes_on": goes_on,
    "laptop": laptop,
    "smollm2": smollm2,
}
NO_GPU = """gpu: this PyTorch sees no GPU. The same checks run on a CPU with a model of 3 layers.
They say nothing about speed, about memory or about learning on CUDA."""


def gpu(args):
    """Yields the figures of each check, so that nothing that was measured is lost."""
    real = torch.cuda.is_available()
    sizes, device = (REAL, "cuda") if real else (SMALL, "cpu")
    print(device_line() if real else NO_GPU, flush=True)
    world = small_world(Path(args.out) / "gpu-world")
    for name, check in CHECKS.items():
        if args.only and name not in args.only:
            continue
        print(f"-- {name}", flush=True)
        try:
            figures = check(args, sizes, device, world)
        # whatever ends a check must not end the others: device time is dear
        except Exception:
            traceback.print_exc()
            figures = {}
            args.failed.append(f"{name} broke off")
        # a policy and its sampler hold each other
        gc.collect()
        if real:
            torch.cuda.empty_cache()
        yield figures


def device_line() -> str:
    """The GPU, its memory, CUDA."""
    memory = torch.cuda.get_device_properties(0).total_memory / GIB
    return f"{torch.cuda.get_device_name()}, {memory:.1f} GiB, CUDA {torch.version.cuda}"
