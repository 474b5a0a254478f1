#!/usr/bin/env python3
"""The GPU's kernels and training steps beside PyTorch's on the same GPU, in one run: milliseconds, the share
of the matrix rate that PyTorch's cuBLAS reaches here, and the ratio to the peer (above 1: wuneng is faster).
Random data, medians, everything in bf16.

Peers: torch.matmul; scaled_dot_product_attention, the fastest of its flash and cuDNN backends; for linear +
KL eager PyTorch in chunks of tokens that fit, with autograd; torch.compile of the plain model with fused
AdamW for a step. No PyTorch package has WKV-7: its peer is the published 11 ms (forward and backward, B 8, T
4096, H 32, D 128, H100).

usage: bench_gpu.py BENCH_GPU BENCH_STEP [quick]     with a python that has PyTorch, on a machine with a GPU
"""
import json
import os
import subprocess
import sys
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch_qwen2 import Model

ROUNDS, WARM = 12, 3
BF16 = dict(device="cuda", dtype=torch.bfloat16)
MODEL = dict(hidden=1536, layers=28, heads=12, kv=2, ffn=8960, vocab=151936)  # Qwen2.5-1.5B's shape
TEACHER = dict(hidden=3584, layers=28, heads=28, kv=4, ffn=18944, vocab=152064)  # Qwen2.5-7B's
T, B = 4096, 2


def median(run, rounds=ROUNDS):
    times = []
    for i in range(rounds + WARM):
        torch.cuda.synchronize()
        begin = time.perf_counter()
        run()
        torch.cuda.synchronize()
        if i >= WARM:
            times.append((time.perf_counter() - begin) * 1e3)
    return sorted(times)[len(times) // 2]


def matmul(n=8192):
    a, b = torch.randn(n, n, **BF16), torch.randn(n, n, **BF16)
    return median(lambda: a @ b.T)


def attention(heads, D, batch=4, length=4096):
    q, k, v, dout = (torch.randn(batch, heads, length, D, **BF16).requires_grad_() for _ in range(4))
    forward, backward = [], []
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            with sdpa_kernel(backend):
                forward.append(median(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)))
                out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                backward.append(median(lambda: torch.autograd.grad(out, (q, k, v), dout, retain_graph=True)))
        except RuntimeError as e:
            print(f"{backend}: {str(e).splitlines()[0]}")
    return min(forward), min(backward)


def linear_kl(tokens=8192, d=3584, V=152064, chunk=1024):
    hidden = torch.randn(tokens, d, **BF16).requires_grad_()
    weight = (0.02 * torch.randn(V, d, **BF16)).requires_grad_()
    teacher = torch.randn(tokens, V, **BF16)

    def run():
        for at in range(0, tokens, chunk):
            logits = (hidden[at:at + chunk] @ weight.T).float()
            target = F.log_softmax(teacher[at:at + chunk].float(), -1)
            loss = F.kl_div(F.log_softmax(logits, -1), target, log_target=True, reduction="sum") / tokens
            loss.backward()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    ms = median(run, 5)
    return ms, (torch.cuda.max_memory_allocated() - before) / 1e9


def step():
    with torch.device("cuda"):
        model = Model(**MODEL, T=T).to(torch.bfloat16)
    tokens = torch.randint(MODEL["vocab"], (B, T), device="cuda")
    labels = torch.randint(MODEL["vocab"], (B * T,), device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    compiled = torch.compile(model)

    def run():
        compiled(tokens, labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return median(run, 5)


def flops_forward(model):
    d, layers, kv, ffn, vocab, heads = (model[k] for k in ("hidden", "layers", "kv", "ffn", "vocab", "heads"))
    weights = layers * (2 * d * d + 2 * d * kv * d // heads + 3 * d * ffn) + vocab * d
    return B * T * (2 * weights + 2 * layers * d * T)  # attention: half of the square


def ours(binary, *args):
    return subprocess.run([binary, *args], capture_output=True, text=True, check=True).stdout


def main():
    bench_gpu, bench_step = (os.path.abspath(x) for x in sys.argv[1:3])
    print(torch.cuda.get_device_name(), "PyTorch", torch.__version__, flush=True)
    peers = {}
    ms = matmul()
    rate = 2 * 8192 ** 3 / ms / 1e9  # TFLOP/s
    peers["product"] = [ms]
    print(f"cuBLAS through PyTorch: {rate:.0f} TFLOP/s")
    for D in (64, 128):
        forward, backward = attention(4096 // D, D)
        peers.setdefault("attention forward", []).append(forward)
        peers.setdefault("attention backward", []).append(backward)
    kl, temporaries = linear_kl()
    peers["linear and kl, forward and backward"] = [kl] * 3
    peers["wkv7 forward and backward"] = [None, 11.0]
    print(f"eager linear and KL: {kl:.1f} ms, temporaries at most {temporaries:.2f} GB", flush=True)
    torch.cuda.empty_cache()
    seen = {}
    for line in ours(bench_gpu).splitlines():
        row = json.loads(line)
        at = seen[row["name"]] = seen.get(row["name"], -1) + 1
        known = peers.get(row["name"], [])
        peer = known[at] if at < len(known) else None
        tflops = row["flops"] / row["ms"] / 1e9
        reached = f"{row['bytes'] / row['ms'] / 1e6:.0f} GB/s"
        if row["flops"]:
            reached = f"{tflops:.0f} TFLOP/s = {tflops / rate:.0%} of cuBLAS"
        against = f"; peer {peer:.3f} ms, ratio {peer / row['ms']:.2f}" if peer else ""
        print(f"{row['name']} ({row['shape']}): {row['ms']:.3f} ms, {reached}{against}", flush=True)
    if "quick" in sys.argv[3:]:
        return

    def our_step(model, *options):
        shape = [model[k] for k in ("hidden", "layers", "heads", "kv", "ffn", "vocab")]
        return float(ours(bench_step, *map(str, shape + [T, B, 5]), "cuda", *options).split()[0])
    teacher = our_step(TEACHER, "attention", "forward")
    reached = flops_forward(TEACHER) / teacher / 1e9
    print(f"teacher's forward, {TEACHER}, {B} x {T}: {teacher:.1f} ms, {reached:.0f} TFLOP/s = "
          f"{reached / rate:.0%} of cuBLAS", flush=True)
    plain = our_step(MODEL)
    hybrid = {mixer: our_step(MODEL, mixer) for mixer in ("lean", "full")}
    peer = step()
    mfu = 3 * flops_forward(MODEL) / plain / 1e9 / 989
    print(f"training step, plain {MODEL}, {B} x {T}: {plain:.1f} ms, MFU {mfu:.1%} of 989 TFLOP/s; "
          f"torch.compile {peer:.1f} ms, ratio {peer / plain:.2f}")
    for mixer, ms in hybrid.items():
        print(f"training step, {mixer}: {ms:.1f} ms, {ms / plain:.2f} of the plain one")


if __name__ == "__main__":
    main()
