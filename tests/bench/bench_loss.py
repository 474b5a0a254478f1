#!/usr/bin/env python3
"""Stage 2's divergences against PyTorch with 2 threads, in one run: forward and backward from the final
hidden state through the output matrix, over Qwen2.5's vocabulary.

usage: bench_loss.py BENCH_LOSS
"""
import os
import subprocess
import sys
import time

THREADS = 2
os.environ.update(OMP_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS))
import torch  # noqa: E402
from torch.nn.functional import kl_div, log_softmax  # noqa: E402

TOKENS, HIDDEN, VOCAB, ROUNDS = 256, 64, 152_064, 5


def divergence(student, teacher, beta):
    """[T, V] each -> mean over tokens of TRL's generalized Jensen-Shannon divergence."""
    p, q = log_softmax(student, -1), log_softmax(teacher, -1)
    if beta == 0:
        return kl_div(p, q, reduction="batchmean", log_target=True)
    if beta == 1:
        return kl_div(q, p, reduction="batchmean", log_target=True)
    share = torch.tensor(beta)
    mixture = torch.logsumexp(torch.stack([p + torch.log1p(-share), q + torch.log(share)]), 0)
    return (beta * kl_div(mixture, q, reduction="batchmean", log_target=True)
            + (1 - beta) * kl_div(mixture, p, reduction="batchmean", log_target=True))


def torch_ms(beta):
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    head = torch.nn.Parameter(torch.randn(VOCAB, HIDDEN) * 0.02)
    hidden, teacher = torch.randn(TOKENS, HIDDEN, requires_grad=True), torch.randn(TOKENS, VOCAB)

    def once():
        begin = time.perf_counter()
        divergence(hidden @ head.T, teacher, beta).backward()
        head.grad = hidden.grad = None
        return (time.perf_counter() - begin) * 1e3

    once()
    return sorted(once() for _ in range(ROUNDS))[ROUNDS // 2]


for name, beta in (("kl", 0), ("jsd", 0.5), ("reverse_kl", 1)):
    ours = subprocess.run([sys.argv[1], *map(str, (beta, TOKENS, HIDDEN, VOCAB, ROUNDS))], text=True,
                          check=True, env={**os.environ, "WUNENG_THREADS": str(THREADS)},
                          capture_output=True).stdout
    mine, peer = float(ours.split()[0]), torch_ms(beta)
    print(f"{name}, T {TOKENS} d {HIDDEN} V {VOCAB}: wuneng {mine:.0f} ms; PyTorch {torch.__version__} "
          f"{peer:.0f} ms; ratio {peer / mine:.2f}x", flush=True)
