#!/usr/bin/env python3
"""A training step of the plain Qwen2 model against PyTorch with 2 threads, in turn, in one run. Any PyTorch: the distribution's
python3-torch, or a newer one in a virtual environment whose python runs this.

usage: bench_step.py BENCH_STEP
"""
import os
import subprocess
import sys
import time

THREADS = 2
os.environ.update(OMP_NUM_THREADS=str(THREADS), OPENBLAS_NUM_THREADS=str(THREADS), MKL_NUM_THREADS=str(THREADS))
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

SHAPES = [  # hidden, layers, heads, kv_heads, ffn, vocab, seq_len, sequences
    (512, 6, 8, 2, 1536, 8192, 256, 1),
    (512, 6, 8, 2, 1536, 8192, 64, 1),
    (768, 12, 12, 4, 2048, 16384, 256, 1),
]
STEPS = 7


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.weight


class Layer(nn.Module):
    def __init__(self, d, heads, kv, ffn):
        super().__init__()
        self.heads, self.kv, self.D = heads, kv, d // heads
        self.n1, self.n2 = Norm(d), Norm(d)
        self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, kv * self.D), nn.Linear(d, kv * self.D)
        self.o = nn.Linear(d, d, bias=False)
        self.gate, self.up, self.down = nn.Linear(d, ffn, bias=False), nn.Linear(d, ffn, bias=False), nn.Linear(ffn, d, bias=False)

    def forward(self, h, cos, sin, mask):
        B, T, d = h.shape
        x = self.n1(h)

        def rope(y):
            a, b = y.chunk(2, -1)
            return y * cos + torch.cat((-b, a), -1) * sin

        q = rope(self.q(x).view(B, T, self.heads, self.D).transpose(1, 2))
        k = rope(self.k(x).view(B, T, self.kv, self.D).transpose(1, 2)).repeat_interleave(self.heads // self.kv, 1)
        v = self.v(x).view(B, T, self.kv, self.D).transpose(1, 2).repeat_interleave(self.heads // self.kv, 1)
        if hasattr(F, "scaled_dot_product_attention"):
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            a = torch.softmax(q @ k.transpose(-1, -2) * self.D ** -0.5 + mask, -1) @ v
        h = h + self.o(a.transpose(1, 2).reshape(B, T, d))
        x = self.n2(h)
        return h + self.down(F.silu(self.gate(x)) * self.up(x))


def torch_step(hidden, layers, heads, kv, ffn, vocab, T, B):
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    embed, stack, norm = nn.Embedding(vocab, hidden), nn.ModuleList(Layer(hidden, heads, kv, ffn) for _ in range(layers)), Norm(hidden)
    nn.init.normal_(embed.weight, std=0.02)
    modules = nn.ModuleList([embed, stack, norm])
    optimizer = torch.optim.AdamW(modules.parameters(), lr=1e-4, foreach=True)
    D = hidden // heads
    angle = torch.arange(T)[:, None] * 1e6 ** (-torch.arange(D // 2) * 2 / D)[None]
    cos, sin = torch.cat((angle, angle), -1).cos(), torch.cat((angle, angle), -1).sin()
    mask = torch.full((T, T), float("-inf")).triu(1)
    tokens, labels = torch.randint(vocab, (B, T)), torch.randint(vocab, (B * T,))

    def step():
        begin = time.perf_counter()
        h = embed(tokens)
        for layer in stack:
            h = layer(h, cos, sin, mask)
        loss = F.cross_entropy((norm(h) @ embed.weight.T).view(B * T, -1), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return (time.perf_counter() - begin) * 1e3

    for _ in range(2):
        step()
    return sorted(step() for _ in range(STEPS))[STEPS // 2]


for shape in SHAPES:
    ours = subprocess.run([sys.argv[1], *map(str, shape), str(STEPS)], env={**os.environ, "WUNENG_THREADS": str(THREADS)}, capture_output=True, text=True, check=True).stdout
    mine, peer = float(ours.split()[0]), torch_step(*shape)
    print(f"hidden {shape[0]} layers {shape[1]} vocab {shape[5]} T {shape[6]} B {shape[7]}: wuneng {ours.strip()}; PyTorch {torch.__version__} {peer:.2f} ms; ratio {peer / mine:.2f}x", flush=True)
