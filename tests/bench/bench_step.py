#!/usr/bin/env python3
"""A training step of the plain Qwen2 model against PyTorch with 2 threads, in turn, in one run. Any PyTorch:
the distribution's python3-torch, or a newer one in a virtual environment whose python runs this.

usage: bench_step.py BENCH_STEP
"""
import os
import subprocess
import sys
import time

THREADS = 2
os.environ.update(OMP_NUM_THREADS=str(THREADS), OPENBLAS_NUM_THREADS=str(THREADS),
                  MKL_NUM_THREADS=str(THREADS))
import torch  # noqa: E402
from torch_qwen2 import Model  # noqa: E402

SHAPES = [  # hidden, layers, heads, kv_heads, ffn, vocab, seq_len, sequences
    (512, 6, 8, 2, 1536, 8192, 256, 1),
    (512, 6, 8, 2, 1536, 8192, 64, 1),
    (768, 12, 12, 4, 2048, 16384, 256, 1),
]
STEPS = 7


def torch_step(hidden, layers, heads, kv, ffn, vocab, T, B):
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    model = Model(hidden, layers, heads, kv, ffn, vocab, T)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, foreach=True)
    tokens, labels = torch.randint(vocab, (B, T)), torch.randint(vocab, (B * T,))

    def step():
        begin = time.perf_counter()
        loss = model(tokens, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return (time.perf_counter() - begin) * 1e3

    for _ in range(2):
        step()
    return sorted(step() for _ in range(STEPS))[STEPS // 2]


for shape in SHAPES:
    ours = subprocess.run([sys.argv[1], *map(str, shape), str(STEPS)], text=True, check=True,
                          env={**os.environ, "WUNENG_THREADS": str(THREADS)}, capture_output=True).stdout
    mine, peer = float(ours.split()[0]), torch_step(*shape)
    print(f"hidden {shape[0]} layers {shape[1]} vocab {shape[5]} T {shape[6]} B {shape[7]}: "
          f"wuneng {ours.strip()}; PyTorch {torch.__version__} {peer:.2f} ms; ratio {peer / mine:.2f}x",
          flush=True)
