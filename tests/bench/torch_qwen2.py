"""The plain Qwen2 model in PyTorch, as a peer for benchmarks of training steps, on any device and in any
float type."""
import torch
from torch import nn
from torch.nn import functional as F


class Norm(nn.Module):
    def __init__(self, d):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))

    def forward(self, x):
        f = x.float()
        return (f * torch.rsqrt(f.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype) * self.weight


class Layer(nn.Module):
    def __init__(self, d, heads, kv, ffn):
        super().__init__()
        self.heads, self.kv, self.D = heads, kv, d // heads
        self.n1, self.n2 = Norm(d), Norm(d)
        self.q, self.k, self.v = nn.Linear(d, d), nn.Linear(d, kv * self.D), nn.Linear(d, kv * self.D)
        self.o = nn.Linear(d, d, bias=False)
        self.gate, self.up, self.down = (
            nn.Linear(d, ffn, bias=False),
            nn.Linear(d, ffn, bias=False),
            nn.Linear(ffn, d, bias=False),
        )

    def attend(self, q, k, v, mask):
        if q.is_cuda:
            return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        k, v = (x.repeat_interleave(self.heads // self.kv, 1) for x in (k, v))
        if hasattr(F, "scaled_dot_product_attention"):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return torch.softmax(q @ k.transpose(-1, -2) * self.D ** -0.5 + mask, -1) @ v

    def forward(self, h, cos, sin, mask):
        B, T, d = h.shape
        x = self.n1(h)

        def rope(y):
            a, b = y.chunk(2, -1)
            return y * cos + torch.cat((-b, a), -1) * sin

        q = rope(self.q(x).view(B, T, self.heads, self.D).transpose(1, 2))
        k = rope(self.k(x).view(B, T, self.kv, self.D).transpose(1, 2))
        v = self.v(x).view(B, T, self.kv, self.D).transpose(1, 2)
        h = h + self.o(self.attend(q, k, v, mask).transpose(1, 2).reshape(B, T, d))
        x = self.n2(h)
        return h + self.down(F.silu(self.gate(x)) * self.up(x))


class Model(nn.Module):
    """forward: the mean cross entropy of labels [B * T], from tokens [B, T]."""

    def __init__(self, hidden, layers, heads, kv, ffn, vocab, T):
        super().__init__()
        self.embed, self.norm = nn.Embedding(vocab, hidden), Norm(hidden)
        self.layers = nn.ModuleList(Layer(hidden, heads, kv, ffn) for _ in range(layers))
        nn.init.normal_(self.embed.weight, std=0.02)
        D = hidden // heads
        angle = torch.arange(T)[:, None] * 1e6 ** (-torch.arange(D // 2) * 2 / D)[None]
        self.register_buffer("cos", torch.cat((angle, angle), -1).cos())
        self.register_buffer("sin", torch.cat((angle, angle), -1).sin())
        self.register_buffer("mask", torch.full((T, T), float("-inf")).triu(1))

    def forward(self, tokens, labels):
        h = self.embed(tokens)
        for layer in self.layers:
            h = layer(h, self.cos, self.sin, self.mask)
        return F.cross_entropy(
            (self.norm(h) @ self.embed.weight.T).view(-1, self.embed.weight.shape[0]).float(), labels
        )
