"""The operations of WuNeng's mixers: rotary embedding, attention, and the recurrence of the states by chunks.

The equations are those of docs/model.md of the WuNeng project, whose symbols name the variables here. Shapes:
B rows of a batch, T tokens, S keys, d hidden size, H query heads, G key/value heads, N state heads, D head
dimension, P = H / N. Heads are [B, heads, T, D]. Matrices are [out, in].
"""
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

ABSENT = 2 ** 30   # the position of a token that is not there: no token attends to it, and it attends to all
SCAN_CHUNK = 32    # tokens of a step of the recurrence: decays multiply to more than 0.545^32 = 4e-9
QUERY_BLOCK = 512  # queries whose mask exists at a time


def split_heads(x, heads):
    """[B, T, heads D] -> [B, heads, T, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join_heads(x):
    return x.transpose(1, 2).flatten(2)


def head_linear(x, weight):
    """x [B, H, T, D] times a matrix for each head, [H, D', D]."""
    return x @ weight.mT


def per_head(vector):
    """[H] or [heads D], for a product with [B, heads, T, D]."""
    return vector[:, None, None]


def without_autocast(function):
    """The recurrence stays in f32 where autocast would round its products."""
    @functools.wraps(function)
    def call(self, x, *arguments):
        with torch.autocast(x.device.type, enabled=False):
            return function(self, x, *arguments)
    return call


class RMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(size)), eps

    def forward(self, x):
        y = x.float()
        return self.weight * (y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)).to(x.dtype)


# ---------------------------------------------------------------------------- attention (Eq. 2, 12)

def rope_cos_sin(config, positions):
    """Cosines and sines [B, 1, T, D / 2] of RoPE, plain or scaled: divided by a factor, by YaRN (arXiv
    2309.00071) or as in Llama 3.1."""
    rope, D = config.rope_parameters, config.head_dim
    theta, factor, scale = rope["rope_theta"], 1.0, 1.0
    exponents = torch.arange(D // 2, dtype=torch.float32 if positions.device.type == "mps" else torch.float64,
                             device=positions.device) / (D // 2)
    frequencies = theta ** -exponents
    if rope["rope_type"] == "linear":
        frequencies = frequencies / rope["factor"]
    if rope["rope_type"] == "llama3":
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings
        turns, low = original * frequencies / (2 * math.pi), rope["low_freq_factor"]
        kept = ((turns - low) / (rope["high_freq_factor"] - low)).clamp(0, 1)
        frequencies = frequencies * ((1 - kept) / rope["factor"] + kept)
    if rope["rope_type"] == "yarn":
        factor = rope["factor"]
        original = rope.get("original_max_position_embeddings") or config.max_position_embeddings

        def channel_of(turns):  # the channel that turns so many times within the original length
            return D * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(theta))

        low, high = channel_of(rope.get("beta_fast") or 32), channel_of(rope.get("beta_slow") or 1)
        if rope.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, D - 1)
        channels = torch.arange(D // 2, device=positions.device)
        ramp = ((channels - low) / (high - low if high != low else 0.001)).clamp(0, 1)
        frequencies = frequencies * (ramp / factor + 1 - ramp)
        scale = rope.get("attention_factor")
        if scale is None:
            m, all_dim = rope.get("mscale"), rope.get("mscale_all_dim")
            scale = 0.1 * math.log(factor) + 1
            if m and all_dim:
                scale = (0.1 * m * math.log(factor) + 1) / (0.1 * all_dim * math.log(factor) + 1)
    angles = (positions[:, None, :, None] % ABSENT) * frequencies  # an absent token's: 0
    return (angles.cos() * scale).float(), (angles.sin() * scale).float()


def rotate(x, cos_sin):
    cos, sin = cos_sin
    first, second = x.float().chunk(2, -1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1).to(x.dtype)


def attend(q, k, v, query_position, key_position, window=None):
    """Causal softmax attention, to the last `window` keys. q [B, H, T, D]; k, v [B, G, S, D]; positions
    [B, T], [B, S]."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    out = []
    for queries, positions in zip(q.split(QUERY_BLOCK, 2), query_position.split(QUERY_BLOCK, 1)):
        mask = key_position[:, None, None, :] <= positions[:, None, :, None]
        if window:
            mask &= key_position[:, None, None, :] > positions[:, None, :, None] - window
        out.append(F.scaled_dot_product_attention(queries, k, v, attn_mask=mask))
    return out[0] if len(out) == 1 else torch.cat(out, 2)


# ---------------------------------------------------------------------------- the state (Eq. 4, 9, 10)

class StateScan:
    """S_t = S_{t-1} (diag(w_t) - kappa_t (a_t kappa_t)^T) + v_t k_t^T, and its readings.

    In a chunk that begins with state S, with W_t = w_1 ... w_t of each channel and u_t = -S_{t-1} kappa_t:

        S_t = S diag(W_t) + sum_{i <= t} (u_i (a_i kappa_i)^T + v_i k_i^T) diag(W_t / W_i),

    and u is the solution of a triangular system of the chunk. All chunks are computed at once, but for S.
    """

    @without_autocast
    def __init__(self, log_w, k, v, kappa, a, S):
        """log_w, k, v, kappa, a [B, N, T, D], S [B, N, D, D], all f32."""
        self.T = k.shape[2]
        self.chunk = min(SCAN_CHUNK, self.T)
        log_w, k, self.v, kappa, a = (self._in_chunks(x) for x in (log_w, k, v, kappa, a))
        log_W = log_w.cumsum(-2)
        self.W = log_W.exp()                                   # [B, N, chunks, C, D]
        self.k, self.b = k / self.W, a * kappa / self.W        # k_i / W_i, a_i kappa_i / W_i
        kappa = kappa * (log_W - log_w).exp()                  # kappa_t W_{t-1}
        # u = -(S kappa + from_u u + from_v v), from_u strictly lower triangular
        from_u, from_v = (kappa @ self.b.mT).tril(-1), (kappa @ self.k.mT).tril(-1)
        right = torch.cat([from_v @ self.v, kappa], -1)
        solved = torch.linalg.solve_triangular(from_u, -right, upper=False, unitriangular=True)
        of_v, of_S = solved.chunk(2, -1)                       # u_t = of_v_t + S of_S_t
        states, removed = [], []
        for c in range(k.shape[2]):
            states.append(S)
            removed.append(of_v[:, :, c] + of_S[:, :, c] @ S.mT)
            S = S + removed[-1].mT @ self.b[:, :, c] + self.v[:, :, c].mT @ self.k[:, :, c]
            S = S * self.W[:, :, c, -1:]
        self.S, self.u, self.final = torch.stack(states, 2), torch.stack(removed, 2), S

    def _in_chunks(self, x):
        """[..., T, D] -> [..., chunks, C, D], the last filled with zeros, which leave the state as it is."""
        return F.pad(x, (0, 0, 0, -self.T % self.chunk)).unflatten(-2, (-1, self.chunk))

    def _by_state(self, x):
        """[B, H, T, D] -> [B, N, P, chunks, C, D]."""
        return self._in_chunks(x).unflatten(1, (self.S.shape[1], -1))

    def _by_head(self, y):
        return y.flatten(1, 2).flatten(2, 3)[:, :, :self.T]

    @without_autocast
    def read(self, r):
        """S_t r_t. r [B, H, T, D] f32."""
        S, W, u, v, k, b = (x[:, :, None] for x in (self.S, self.W, self.u, self.v, self.k, self.b))
        r = self._by_state(r) * W
        return self._by_head(r @ S.mT + (r @ b.mT).tril() @ u + (r @ k.mT).tril() @ v)

    @without_autocast
    def read_transposed(self, y):
        """S_t^T y_t. y [B, H, T, D] f32."""
        S, W, u, v, k, b = (x[:, :, None] for x in (self.S, self.W, self.u, self.v, self.k, self.b))
        y = self._by_state(y)
        return self._by_head(W * (y @ S + (y @ u.mT).tril() @ b + (y @ v.mT).tril() @ k))


def low_rank(d, out, rank):
    """A projection [out, d], or with a rank the product of second [out, rank] and first [rank, d]."""
    if not rank:
        return nn.Linear(d, out, bias=False)
    factors = nn.Sequential()
    factors.add_module("first", nn.Linear(d, rank, bias=False))
    factors.add_module("second", nn.Linear(rank, out, bias=False))
    return factors


def log_decay(x, w0, w1, w2):
    """log w = -e^(-1/2) sigmoid(w0 + W2 tanh(W1 x)), f32."""
    return -math.exp(-0.5) * torch.sigmoid((w0 + torch.tanh(x @ w1.mT) @ w2.mT).float())


class Parameters(nn.Module):
    """Parameters by name. Those that a checkpoint does not have begin at `start` (a number, or normal)."""

    def __init__(self):
        super().__init__()
        self.starts = {}

    def add(self, name, *shape, start="normal"):
        self.register_parameter(name, nn.Parameter(torch.zeros(shape)))
        self.starts[name] = start

    def start(self):
        for name, start in self.starts.items():
            parameter = getattr(self, name)
            if start == "normal":
                nn.init.normal_(parameter, std=parameter.shape[-1] ** -0.5)
            else:
                nn.init.constant_(parameter, start)


def l2_normalised(x):
    return F.normalize(x.float(), dim=-1, eps=1e-12)
