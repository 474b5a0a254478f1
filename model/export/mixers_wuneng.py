"""The mixers of WuNeng models: plain attention, WuNeng's and RWKV-7's. Symbols and shapes are those of
operations_wuneng.py.

A mixer's forward takes x [B, T, d], the tokens (Tokens in modeling_wuneng.py), and what earlier tokens left
in this layer (memory, which it updates).
"""
import functools
import math

import torch
import torch.nn.functional as F
from torch import nn

from .operations_wuneng import (Parameters, RMSNorm, StateScan, attend, head_linear, join_heads,
                                l2_normalised, log_decay, low_rank, per_head, rotate, split_heads)


class Attention(nn.Module):
    """Grouped-query attention, and what WuNeng's mixer shares with it."""

    def __init__(self, config, layer):
        super().__init__()
        d, D = config.hidden_size, config.head_dim
        self.H, self.G, self.D = config.num_attention_heads, config.num_key_value_heads, D
        self.window = config.window_of(layer)
        self.q_proj = nn.Linear(d, self.H * D, bias=config.qkv_bias)
        self.k_proj = nn.Linear(d, self.G * D, bias=config.qkv_bias)
        self.v_proj = nn.Linear(d, self.G * D, bias=config.qkv_bias)
        self.o_proj = nn.Linear(self.H * D, d, bias=False)
        self.q_norm = RMSNorm(D, config.rms_norm_eps) if config.qk_norm else nn.Identity()
        self.k_norm = RMSNorm(D, config.rms_norm_eps) if config.qk_norm else nn.Identity()

    def keys_and_values(self, x, tokens, memory):
        """k, v [B, G, S, D] of all tokens so far, and v of these tokens."""
        k = rotate(self.k_norm(split_heads(self.k_proj(x), self.G)), tokens.rope)
        token_v = v = split_heads(self.v_proj(x), self.G)
        if "keys" in memory:
            k, v = torch.cat([memory["keys"], k], 2), torch.cat([memory["values"], v], 2)
        memory["keys"], memory["values"] = k, v
        return k, v, token_v

    def queries(self, x):
        return self.q_norm(split_heads(self.q_proj(x), self.H))

    def forward(self, x, tokens, memory):
        k, v, _ = self.keys_and_values(x, tokens, memory)
        A = attend(rotate(self.queries(x), tokens.rope), k, v, tokens.position, tokens.key_position,
                   self.window)
        return self.o_proj(join_heads(A))


class StateParameters(Parameters):
    """`state.*` of a WuNeng layer; o: the mixer's options."""

    def __init__(self, config, o):
        super().__init__()
        d, D, H, N = config.hidden_size, config.head_dim, config.num_attention_heads, o.state_heads
        grouped = o.state_query == "grouped"
        self.r_proj = low_rank(d, (N if grouped else H) * D, o.state_rank)
        if grouped:
            self.add("r_head", H, D, D)
        self.kappa_proj = low_rank(d, N * D, o.state_rank)
        if o.state_key == "own":
            self.state_k_proj = low_rank(d, N * D, o.state_rank)
        for name, rank, start in (("w", o.decay_rank, -3.0), ("a", o.rate_rank, 0.0)):
            self.add(name + "0", N * D, start=start)
            self.add(name + "1", rank, d, start=0.0)
            self.add(name + "2", N * D, rank)
        self.add("k_a", N * D, start=1.0)
        if o.token_shift:
            for name in ("r", "k", "kappa", "w", "a"):
                self.add("mu_" + name, d, start=0.5)
        if o.learn_initial_state:
            self.add("initial_state", N, D, D, start=0.0)
        self.add("state_norm", H * D, start=1.0)
        self.add("alpha", H, start=1.0)
        middles = o.cross_head != "none"
        if middles:
            self.add("beta", H, start=1.0)
            self.add("gamma", H, start=0.0)
            self.add("mid", H, D, D)
        if "attention" in o.state_value:
            self.add("value_attention", H, D, D)
        if middles and "middle" in o.state_value:
            self.add("value_middle", H, D, D)
        if o.state_read == "quadratic":
            self.add("khat", H, D, D)
        if o.cross_head == "additive":
            self.add("mid_state", H, D, D)
        if o.cross_head == "gated":
            self.add("gate", H, D, 2 * D)
        if o.multi_token:
            self.add("lambda", H, start=0.0)
            self.add("query_state", H, D, D)
        for part, how in (("state", o.combine_state), ("middle", o.combine_middle)):
            if how == "concat" and (part == "state" or middles):
                self.add("o_" + part, d, H * D)
            if how == "learned" and (part == "state" or middles):
                self.add("mix_" + part, H, D, D)


class WunengMixer(Attention):
    """Attention heads, state heads, middle heads between them, and queries that read the state."""

    def __init__(self, config, layer):
        super().__init__(config, layer)
        self.o = config.options_of("wuneng")
        self.N = self.o.state_heads
        self.state = StateParameters(config, self.o)

    def forward(self, x, tokens, memory):
        o, p, T = self.o, self.state, x.shape[1]
        k, v, token_v = self.keys_and_values(x, tokens, memory)
        q = self.queries(x)
        r, key, kappa, log_w, a = self.state_inputs(x, tokens, memory)
        value = token_v.repeat_interleave(self.N // self.G, 1)
        if "token" not in o.state_value:
            value = torch.zeros_like(value)
        S = memory["state"] if "state" in memory else self.initial_state(x)
        B = memory.get("boundary", S)

        # The boundary state feeds the tokens of a chunk; without such tokens all are one step.
        loops = o.multi_token or hasattr(p, "value_middle")
        A, z = [], []
        for first, last in tokens.chunk_steps(o.chunk) if loops else [(0, T)]:
            step = slice(first, last)
            B = torch.where(tokens.begins_chunk(first, o.chunk)[:, None, None, None], S, B)
            z_bar = self.read_boundary(B, r[:, :, step]).to(x.dtype) if loops else None
            q_step = q[:, :, step]
            if o.multi_token:                                                                     # Eq. 11
                q_step = q_step + per_head(getattr(p, "lambda")) * head_linear(z_bar, p.query_state)
            q_step = rotate(q_step, [table[:, :, step] for table in tokens.rope])
            S_end = k.shape[2] - T + last
            A.append(attend(q_step, k[:, :, :S_end], v[:, :, :S_end], tokens.position[:, step],
                            tokens.key_position[:, :S_end], self.window))                         # Eq. 12
            written = value[:, :, step] + self.fed_back(A[-1], z_bar)
            written = written.float() * tokens.present[:, None, step, None]
            scan = StateScan(log_w[:, :, step], key[:, :, step], written, kappa[:, :, step], a[:, :, step], S)
            z.append(self.read(scan, r[:, :, step]).to(x.dtype))
            S = scan.final
        memory["state"], memory["boundary"] = S, B
        return self.combine(torch.cat(A, 2), torch.cat(z, 2))

    def initial_state(self, x):
        """[B, N, D, D], the state before the first token."""
        if self.o.learn_initial_state:
            return self.state.initial_state.float().expand(len(x), -1, -1, -1)
        return torch.zeros(len(x), self.N, self.D, self.D, device=x.device)

    def state_inputs(self, x, tokens, memory):
        """r [B, H, T, D] and key, kappa, log_w, a [B, N, T, D], all f32, from x [B, T, d]."""
        o, p = self.o, self.state
        if o.token_shift:
            step = tokens.shifted(x, memory) - x
            x_r, x_k, x_kappa, x_w, x_a = (x + step * getattr(p, "mu_" + name)
                                           for name in ("r", "k", "kappa", "w", "a"))
        else:
            x_r = x_k = x_kappa = x_w = x_a = x
        if o.state_query == "grouped":
            r = split_heads(p.r_proj(x_r), self.N).repeat_interleave(self.H // self.N, 1)
            r = head_linear(r, p.r_head)
        else:
            r = split_heads(p.r_proj(x_r), self.H)
        kappa = l2_normalised(split_heads(p.kappa_proj(x_kappa), self.N))
        log_w = split_heads(log_decay(x_w, p.w0, p.w1, p.w2), self.N)
        a = split_heads(torch.sigmoid((p.a0 + x_a @ p.a1.mT @ p.a2.mT).float()), self.N)
        if o.state_key == "own":
            key = l2_normalised(split_heads(p.state_k_proj(x_k), self.N))
        else:  # before bias, norm and RoPE
            key = l2_normalised(split_heads(F.linear(x, self.k_proj.weight), self.G))
            key = key.repeat_interleave(self.N // self.G, 1)
        key = key * (1 + (a - 1) * p.k_a.float().view(self.N, 1, self.D))
        there = tokens.present[:, None, :, None]  # other tokens leave the state as it is
        return l2_normalised(r), key * there, kappa, log_w * there, a * there

    def fed_back(self, A, z_bar):
        """What attention and middle heads write into the states, [B, N, T, D] (Eq. 4, 9)."""
        p, out = self.state, 0
        if hasattr(p, "value_attention"):
            out = head_linear(A, p.value_attention)
        if hasattr(p, "value_middle"):
            out = out + head_linear(self.middle(A, z_bar), p.value_middle)
        return out if isinstance(out, int) else out.unflatten(1, (self.N, -1)).sum(2)

    def read(self, scan, r):
        """z_h: S r, or S^T K^ (S r), then state_norm (Eq. 2). f32."""
        y = scan.read(r)
        if self.o.state_read == "quadratic":
            y = scan.read_transposed(head_linear(y, self.state.khat.float()))
        return self.normalised(y)

    def read_boundary(self, B, r):
        """The same of one state B [B, N, D, D] for all tokens."""
        B = B.repeat_interleave(self.H // self.N, 1)
        y = r @ B.mT
        if self.o.state_read == "quadratic":
            y = head_linear(y, self.state.khat.float()) @ B
        return self.normalised(y)

    def normalised(self, y):
        if self.o.state_norm == "rms":
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + self.o.state_norm_eps)
        else:
            y = y * math.sqrt(self.D)
        return y * self.state.state_norm.float().view(self.H, 1, self.D)

    def middle(self, A, z):
        """M_h (Eq. 6, 7, 8)."""
        p, z_beta = self.state, per_head(self.state.beta) * z
        if self.o.cross_head == "concat":
            return F.silu(head_linear(A + z_beta, p.mid))
        if self.o.cross_head == "additive":
            return F.silu(head_linear(A, p.mid) + per_head(p.beta) * head_linear(z, p.mid_state))
        g = torch.sigmoid(head_linear(torch.cat([A, z], -1), p.gate))
        return F.silu(head_linear(g * A + (1 - g) * z_beta, p.mid))

    def combine(self, A, z):
        """F of {A + gamma M}, {alpha z}, {M}, through the output projections (Eq. 6)."""
        o, p, out = self.o, self.state, 0
        parts = [("state", per_head(p.alpha) * z, o.combine_state)]
        first = A
        if o.cross_head != "none":
            M = self.middle(A, z)
            first = A + per_head(p.gamma) * M
            parts.append(("middle", M, o.combine_middle))
        for part, heads, how in parts:
            if how == "concat":
                out = out + F.linear(join_heads(heads), getattr(p, "o_" + part))
            elif how == "learned":
                first = first + head_linear(heads, getattr(p, "mix_" + part))
            else:
                first = first + heads
        return out + self.o_proj(join_heads(first))


# ---------------------------------------------------------------------------- the other student: ARWKV

class Rwkv7Parameters(Parameters):
    """`rwkv7.*` of a layer; first: of the first layer with this mixer."""

    def __init__(self, C, o, first):
        super().__init__()
        heads, D = C // o.rwkv_head_dim, o.rwkv_head_dim
        for name in ("r", "k", "v", "o"):
            self.add_module(name + "_proj", nn.Linear(C, C, bias=False))
        for name in "rwkva" + "g" * o.rwkv_gate:
            self.add("mu_" + name, C, start=0.5)
        for name, rank, start in (("w", o.decay_rank, -3.0), ("a", o.rate_rank, 0.0),
                                  ("v", o.value_rank, 0.7))[:2 if first else 3]:
            self.add(name + "0", C, start=start)
            self.add(name + "1", rank, C, start=0.0)
            self.add(name + "2", C, rank)
        self.add("k_k", C, start=0.7)
        self.add("k_a", C, start=1.0)
        self.add("r_k", C, start=0.0)
        if o.rwkv_group_norm:
            self.ln_x = nn.GroupNorm(heads, C, eps=D * 1e-5)
        if o.rwkv_gate:
            self.add("g1", o.gate_rank, C, start=0.0)
            self.add("g2", C, o.gate_rank, start=0.0)
        if o.learn_initial_state:
            self.add("initial_state", heads, D, D, start=0.0)


class Rwkv7Mixer(nn.Module):
    """RWKV-7 time mixing."""

    def __init__(self, config, layer):
        super().__init__()
        self.o = config.options_of("rwkv7")
        self.D, self.heads = self.o.rwkv_head_dim, config.hidden_size // self.o.rwkv_head_dim
        self.first = all(config.mixer_of(i) != "rwkv7" for i in range(layer))
        self.rwkv7 = Rwkv7Parameters(config.hidden_size, self.o, self.first)

    def forward(self, x, tokens, memory):
        p = self.rwkv7
        split = functools.partial(split_heads, heads=self.heads)
        step = tokens.shifted(x, memory) - x
        x_r, x_w, x_k, x_v, x_a = (x + step * getattr(p, "mu_" + name) for name in "rwkva")
        r, k, v = p.r_proj(x_r), p.k_proj(x_k), p.v_proj(x_v)
        log_w = log_decay(x_w, p.w0, p.w1, p.w2)
        a = torch.sigmoid((p.a0 + x_a @ p.a1.mT @ p.a2.mT).float())
        if self.first:
            tokens.carried["v_first"] = v
        else:
            v_first = tokens.carried["v_first"].to(v.device)
            v = v + (v_first - v) * torch.sigmoid(p.v0 + x_v @ p.v1.mT @ p.v2.mT)
        kappa = l2_normalised(split(k.float() * p.k_k))
        key = split(k.float() * (1 + (a - 1) * p.k_a))
        there = tokens.present[:, None, :, None]
        r, value = split(r.float()), split(v.float())
        if "state" not in memory:
            S = p.initial_state.float() if self.o.learn_initial_state else r.new_zeros(self.D, self.D)
            memory["state"] = S.expand(len(x), self.heads, self.D, self.D)
        scan = StateScan(split(log_w) * there, key * there, value * there, kappa, split(a) * there,
                         memory["state"])
        memory["state"], y = scan.final, scan.read(r)
        if self.o.rwkv_group_norm:
            y = y - y.mean(-1, keepdim=True)
            y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + p.ln_x.eps)
            y = y * p.ln_x.weight.view(self.heads, 1, self.D) + p.ln_x.bias.view(self.heads, 1, self.D)
        y = y + (r * key * p.r_k.view(self.heads, 1, self.D)).sum(-1, keepdim=True) * value  # the bonus
        y = join_heads(y).to(x.dtype)
        if self.o.rwkv_gate:
            x_g = x + step * p.mu_g
            y = y * (1 + torch.sigmoid(x_g @ p.g1.mT) @ p.g2.mT)
        return p.o_proj(y)
