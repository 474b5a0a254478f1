"""Executable specification of the WuNeng model, in float64 NumPy.

It is slow and simple on purpose: every equation of docs/model.md stands here once, token by
token, so that a fast implementation can be held against it. It is a reference for tests, not a part of
the product.

Shapes: T tokens, d hidden size, H query heads, G key/value heads (G | H), N state heads (G | N, N | H),
D head dimension, P = H / N query heads per state head, m tokens per state chunk.
All matrices are stored as [out, in] and applied as x @ W.T, as in a Hugging Face checkpoint.

Run `python3 wuneng_reference.py` for a self-check.
"""
import dataclasses
from dataclasses import dataclass

import numpy as np


# ----------------------------------------------------------------------------- configuration

@dataclass
class Config:
    hidden_size: int = 32
    intermediate_size: int = 48
    num_layers: int = 2
    num_heads: int = 4            # H
    num_kv_heads: int = 2         # G
    head_dim: int = 8             # D
    vocab_size: int = 61
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-6
    tie_word_embeddings: bool = True
    # The family: Qwen2 has biases of q, k and v, Qwen3 norms of q and k, Llama and Mistral neither
    qkv_bias: bool = True
    qk_norm: bool = False         # RMSNorm of each head of q and k, before RoPE
    window: int = 0               # a token attends to itself and the window - 1 before it | 0: to all
    # WuNeng
    mixer: str = "wuneng"         # "attention" (plain) | "wuneng" | "rwkv7" (ARWKV)
    layer_mixers: tuple = ()      # of single layers: ((0, "attention"), ...)
    state_heads: int = 2          # N
    token_shift: bool = True      # the state's inputs see the token before (RWKV-7)
    state_query: str = "grouped"  # "grouped": r_h = R_h W^r_s x | "full": r_h = W^K^_h x
    state_key: str = "own"        # "own": k_s = W^k_s x | "shared": the attention's W^K x
    state_rank: int = 0           # 0: full W^r, W^k, W^kappa | else each a product of two of this rank
    state_read: str = "linear"    # "linear": z = S r | "quadratic": z = S^T W (S r)
    state_norm: str = "rms"       # "rms": RMSNorm of z with a weight per channel | "none": sqrt(D) z, and it
    state_norm_eps: float = 1e-2  # of "rms"; small values make training chaotic (model.md)
    # what v_t sums: Eq. 4 and 10 "attention", Eq. 9 both, and the token's own
    state_value: tuple = ("token", "attention", "middle")
    cross_head: str = "concat"    # middle heads: "none" | "concat" Eq. 6 | "additive" Eq. 7 | "gated" Eq. 8
    combine_state: str = "concat"   # F over the state readings: "concat" | "sum" | "learned"
    combine_middle: str = "learned"  # F over the middle heads: the same choices
    multi_token: bool = True      # Eq. 11
    chunk: int = 4                # m, tokens between boundary states
    learn_initial_state: bool = False  # S_0, of wuneng and rwkv7: else zero
    decay_rank: int = 4
    rate_rank: int = 4
    # ARWKV: its own heads of rwkv_head_dim channels, d = heads * rwkv_head_dim
    rwkv_head_dim: int = 8
    rwkv_gate: bool = False
    rwkv_group_norm: bool = False
    value_rank: int = 4
    gate_rank: int = 4

    def of_layer(self, i):
        """The same with layer i's mixer."""
        return dataclasses.replace(self, mixer=dict(self.layer_mixers).get(i, self.mixer))


# ----------------------------------------------------------------------------- small functions

def sigmoid(x):
    return 0.5 * (1.0 + np.tanh(0.5 * x))


def silu(x):
    return x * sigmoid(x)


def rms_norm(x, weight, eps):
    return x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + eps) * weight


def l2_normalize(x, eps=1e-12):
    return x / np.maximum(np.sqrt(np.sum(x * x, axis=-1, keepdims=True)), eps)


def log_softmax(x):
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def rope(x, positions, theta):
    """Rotary embedding in the half-rotation layout of Qwen2. x: [..., T, D]."""
    half = x.shape[-1] // 2
    angle = positions[:, None] * theta ** (-np.arange(half) / half)[None, :]
    cos, sin = np.cos(angle), np.sin(angle)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


# ----------------------------------------------------------------------------- parameters

def init_layer(c, rng, preserve=False):
    """Random parameters of one layer. With preserve=True the WuNeng parts start function-preserving:
    the layer's output equals that of the plain attention layer with the same weights."""
    d, H, G, N, D = c.hidden_size, c.num_heads, c.num_kv_heads, c.state_heads, c.head_dim
    P = H // N

    def mat(*shape):
        return rng.standard_normal(shape) / np.sqrt(shape[-1])

    p = {
        "input_layernorm": 1 + 0.1 * rng.standard_normal(d),
        "post_attention_layernorm": 1 + 0.1 * rng.standard_normal(d),
        "q_proj": mat(H * D, d), "q_bias": 0.1 * rng.standard_normal(H * D),
        "k_proj": mat(G * D, d), "k_bias": 0.1 * rng.standard_normal(G * D),
        "v_proj": mat(G * D, d), "v_bias": 0.1 * rng.standard_normal(G * D),
        "o_proj": mat(d, H * D),
        "gate_proj": mat(c.intermediate_size, d), "up_proj": mat(c.intermediate_size, d),
        "down_proj": mat(d, c.intermediate_size),
    }
    if not c.qkv_bias:
        del p["q_bias"], p["k_bias"], p["v_bias"]
    if c.qk_norm:
        p |= {"q_norm": 1 + 0.1 * rng.standard_normal(D), "k_norm": 1 + 0.1 * rng.standard_normal(D)}
    if c.mixer == "attention":
        return p
    if c.mixer == "rwkv7":
        for name in [n for n in p if n.startswith(("q_", "k_", "v_", "o_"))]:
            del p[name]
        heads = d // c.rwkv_head_dim
        p |= {"mu_" + n: rng.uniform(0, 1, d) for n in "rwkvag"}
        p |= {n + "_proj": mat(d, d) for n in ("r", "k", "v", "o")}
        for n, rank in (("w", c.decay_rank), ("a", c.rate_rank), ("v", c.value_rank)):
            p |= {n + "0": rng.standard_normal(d), n + "1": mat(rank, d), n + "2": mat(d, rank)}
        p |= {"g1": mat(c.gate_rank, d), "g2": mat(d, c.gate_rank)}
        p |= {"k_k": rng.uniform(.5, 1, d), "k_a": rng.uniform(.5, 1, d),
              "r_k": 0.1 * rng.standard_normal((heads, c.rwkv_head_dim)),
              "ln_x_weight": 1 + 0.1 * rng.standard_normal(d), "ln_x_bias": 0.1 * rng.standard_normal(d)}
        if c.learn_initial_state:
            p["initial_state"] = mat(heads, c.rwkv_head_dim, c.rwkv_head_dim)
        return p
    p |= {
        # decay w and in-context learning rate a: per state head and channel, low rank (RWKV-7)
        "w0": rng.standard_normal(N * D), "w1": mat(c.decay_rank, d), "w2": mat(N * D, c.decay_rank),
        "a0": rng.standard_normal(N * D), "a1": mat(c.rate_rank, d), "a2": mat(N * D, c.rate_rank),
        "k_a": rng.uniform(0, 1, N * D),           # how far the rate scales the replacement key (RWKV-7 k_a)
        "state_norm": 1 + 0.1 * rng.standard_normal(H * D),
        "alpha": rng.standard_normal(H), "beta": rng.standard_normal(H),
        "gamma": rng.standard_normal(H), "lambda": rng.standard_normal(H),
    }
    if c.learn_initial_state:
        p["initial_state"] = mat(N, D, D)
    projections = {"kappa_proj": N * D}            # W^kappa
    projections["r_proj"] = N * D if c.state_query == "grouped" else H * D
    if c.state_key == "own":
        projections["state_k_proj"] = N * D
    for name, out in projections.items():
        if c.state_rank:
            p[name + ".first"], p[name + ".second"] = mat(c.state_rank, d), mat(out, c.state_rank)
        else:
            p[name] = mat(out, d)
    if c.state_query == "grouped":
        p["r_head"] = mat(H, D, D)  # R_h: each query head's own reading of its state head's query
    if c.token_shift:
        p |= {"mu_" + n: rng.uniform(0, 1, d) for n in ("r", "k", "kappa", "w", "a")}
    if "attention" in c.state_value:
        p["value_attention"] = mat(N, D, P * D)    # W^V on the group's attention outputs
    if c.state_read == "quadratic":
        p["khat"] = mat(H, D, D)                   # W_h^K^ of Eq. 2, applied to S r
    if c.cross_head != "none":
        p["mid"] = mat(H, D, D)                    # W_h^mid
        if c.cross_head == "additive":
            p["mid_state"] = mat(H, D, D)          # W_h^state of Eq. 7
        if c.cross_head == "gated":
            p["gate"] = mat(H, D, 2 * D)           # W_h^gate of Eq. 8
        if "middle" in c.state_value:
            p["value_middle"] = mat(N, D, P * D)   # W^V on the group's middle outputs
    if c.multi_token:
        p["query_state"] = mat(H, D, D)            # W_h^state of Eq. 11
    for part, how in (("state", c.combine_state), ("middle", c.combine_middle)):
        if part == "middle" and c.cross_head == "none":
            continue
        if how == "concat":
            p["o_" + part] = mat(d, H * D)         # its own output projection
        elif how == "learned":
            p["mix_" + part] = mat(H, D, D)        # a D x D mix per head, before the shared output projection
    if preserve:
        p["lambda"][:], p["gamma"][:], p["beta"][:] = 0, 0, 1
        p["alpha"][:] = 0 if c.combine_state == "sum" else 1
        zero = ["o_state", "o_middle", "mix_state", "mix_middle"]
        if c.combine_middle == "sum":
            zero += ["mid", "mid_state"]           # then M = silu(0) = 0
        for name in zero:
            if name in p:
                p[name][:] = 0
    return p


def init_model(c, rng, preserve=False):
    model = {"embed_tokens": rng.standard_normal((c.vocab_size, c.hidden_size)) * 0.5,
             "norm": 1 + 0.1 * rng.standard_normal(c.hidden_size),
             "layers": [init_layer(c.of_layer(i), rng, preserve) for i in range(c.num_layers)]}
    if not c.tie_word_embeddings:
        model["lm_head"] = rng.standard_normal((c.vocab_size, c.hidden_size)) / np.sqrt(c.hidden_size)
    return model


# ----------------------------------------------------------------------------- the mixer

def split_heads(c, p, x, name):
    """[heads, T, D] of W x + b, for queries and keys of a model with norms their RMSNorm. name: q, k or v."""
    y = x @ p[name + "_proj"].T + (p[name + "_bias"] if c.qkv_bias else 0)
    y = y.reshape(len(x), -1, c.head_dim).swapaxes(0, 1)
    return rms_norm(y, p[name + "_norm"], c.rms_norm_eps) if c.qk_norm and name != "v" else y


def attend(c, q, k, v, start, t):
    """What token t of the document that begins at `start` reads. q [D]; k, v [T, D], one head's."""
    first = max(start, t + 1 - c.window) if c.window else start
    s = k[first:t + 1] @ q / np.sqrt(c.head_dim)
    return np.exp(log_softmax(s)) @ v[first:t + 1]


def attention_mixer(c, p, x, starts):
    """Plain grouped-query attention. x: [T, d] normalised input; starts[t]: first token of t's document."""
    T, H, G, D = len(x), c.num_heads, c.num_kv_heads, c.head_dim
    pos = np.arange(T) - starts
    q = rope(split_heads(c, p, x, "q"), pos, c.rope_theta)
    k = rope(split_heads(c, p, x, "k"), pos, c.rope_theta)
    v = split_heads(c, p, x, "v")
    out = np.zeros((T, H, D))
    for h in range(H):
        for t in range(T):
            out[t, h] = attend(c, q[h, t], k[h * G // H], v[h * G // H], starts[t], t)
    return out.reshape(T, H * D) @ p["o_proj"].T


def middle(c, p, h, A, z):
    """Middle head output M_h from the attention output A and the state reading z, both [D]."""
    if c.cross_head == "none":
        return np.zeros_like(A)
    beta = p["beta"][h]
    if c.cross_head == "concat":                              # Eq. 6
        return silu(p["mid"][h] @ (A + beta * z))
    if c.cross_head == "additive":                            # Eq. 7
        return silu(p["mid"][h] @ A + beta * (p["mid_state"][h] @ z))
    g = sigmoid(p["gate"][h] @ np.concatenate([A, z]))        # Eq. 8
    return silu(p["mid"][h] @ (g * A + (1 - g) * beta * z))


def shift(x, starts):
    """The token before, zero at a document's start. x: [T, d]."""
    before = np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    before[np.arange(len(x)) == starts] = 0
    return before


def state_projection(c, p, name, x):
    """W x for W whole or a product of two matrices of state_rank."""
    if c.state_rank:
        return x @ p[name + ".first"].T @ p[name + ".second"].T
    return x @ p[name].T


def state_inputs(c, p, x, starts):
    """What r, k, kappa, w and a are projected from, each [T, d]: x, or a mix of x and the token before."""
    if not c.token_shift:
        return [x] * 5
    step = shift(x, starts) - x
    return [x + step * p["mu_" + n] for n in ("r", "k", "kappa", "w", "a")]


def wuneng_mixer(c, p, x, starts, final_state=None):
    """Hybrid mixer. x: [T, d] normalised input. Returns a: [T, d]. Document starts reset the state, the
    boundary state and the positions; chunk boundaries count from there."""
    T, H, G, N, D = len(x), c.num_heads, c.num_kv_heads, c.state_heads, c.head_dim
    P = H // N
    pos = np.arange(T) - starts
    q_plain = split_heads(c, p, x, "q")                         # before RoPE
    k = rope(split_heads(c, p, x, "k"), pos, c.rope_theta)
    v = split_heads(c, p, x, "v")
    group = np.arange(N) * G // N                               # the key/value head of each state head
    xr, xk, xkappa, xw, xa = state_inputs(c, p, x, starts)
    if c.state_query == "grouped":
        r = np.einsum("hij,thj->thi", p["r_head"],
                      state_projection(c, p, "r_proj", xr).reshape(T, N, D)[:, np.arange(H) // P])
    else:
        r = state_projection(c, p, "r_proj", xr).reshape(T, H, D)
    r = l2_normalize(r)
    kappa = l2_normalize(state_projection(c, p, "kappa_proj", xkappa).reshape(T, N, D))
    decay = np.exp(-np.exp(-0.5) * sigmoid(p["w0"] + np.tanh(xw @ p["w1"].T) @ p["w2"].T)).reshape(T, N, D)
    rate = sigmoid(p["a0"] + (xa @ p["a1"].T) @ p["a2"].T).reshape(T, N, D)
    if c.state_key == "own":
        key = l2_normalize(state_projection(c, p, "state_k_proj", xk).reshape(T, N, D))
    else:
        key = l2_normalize((x @ p["k_proj"].T).reshape(T, G, D))[:, group]  # before bias, norm and rotary
    key = key * (1 + (rate - 1) * p["k_a"].reshape(N, D))       # [T, N, D]

    def read(S, h, t):
        y = S[h // P] @ r[t, h]
        if c.state_read == "quadratic":
            y = S[h // P].T @ (p["khat"][h] @ y)
        weight = p["state_norm"].reshape(H, D)[h]
        if c.state_norm == "none":  # r and k are unit vectors: sqrt(D) brings S r to the size of the values
            return np.sqrt(D) * y * weight
        return rms_norm(y, weight, c.state_norm_eps)

    S = np.zeros((N, D, D))
    boundary = S.copy()
    out = np.zeros((T, p["o_proj"].shape[0]))
    for t in range(T):
        if pos[t] == 0:
            S = p["initial_state"].copy() if c.learn_initial_state else np.zeros((N, D, D))
        if pos[t] % c.chunk == 0:
            boundary = S.copy()                     # the state before this chunk's first token
        A, Mv = np.zeros((H, D)), np.zeros((H, D))
        for h in range(H):
            q = q_plain[h, t]
            zb = read(boundary, h, t)
            if c.multi_token:                                  # Eq. 11
                q = q + p["lambda"][h] * (p["query_state"][h] @ zb)
            q = rope(q[None], pos[t:t + 1], c.rope_theta)[0]
            A[h] = attend(c, q, k[h * G // H], v[h * G // H], starts[t], t)
            if "value_middle" in p:
                Mv[h] = middle(c, p, h, A[h], zb)              # the middle head as of the boundary (Eq. 9)
        for n in range(N):
            sv = v[group[n], t] if "token" in c.state_value else np.zeros(D)
            if "value_attention" in p:
                sv = sv + p["value_attention"][n] @ A[n * P:(n + 1) * P].reshape(-1)
            if "value_middle" in p:
                sv = sv + p["value_middle"][n] @ Mv[n * P:(n + 1) * P].reshape(-1)
            transition = np.diag(decay[t, n]) - np.outer(kappa[t, n], rate[t, n] * kappa[t, n])
            S[n] = S[n] @ transition + np.outer(sv, key[t, n])  # Eq. 4 / 9 / 10
        heads = {"attention": np.zeros((H, D)), "state": np.zeros((H, D)), "middle": np.zeros((H, D))}
        for h in range(H):
            z = read(S, h, t)
            M = middle(c, p, h, A[h], z)
            heads["attention"][h] = A[h] + p["gamma"][h] * M
            heads["state"][h] = p["alpha"][h] * z
            heads["middle"][h] = M
        for part, how in (("state", c.combine_state), ("middle", c.combine_middle)):
            if how == "concat" and "o_" + part in p:
                out[t] += p["o_" + part] @ heads[part].reshape(-1)
            elif how == "learned" and "mix_" + part in p:
                heads["attention"] += np.einsum("hij,hj->hi", p["mix_" + part], heads[part])
            elif how == "sum":
                heads["attention"] += heads[part]
        out[t] += p["o_proj"] @ heads["attention"].reshape(-1)
    if final_state is not None:
        final_state.append(S.copy())
    return out


def rwkv7_mixer(c, p, x, starts, v_first):
    """RWKV-7 time mixing as ARWKV uses it. x: [T, d] normalised input. v_first: [T, d], the first such
    layer's values, or None in that layer. Returns (a [T, d], v_first [T, d])."""
    T, D = len(x), c.rwkv_head_dim
    heads = x.shape[1] // D
    before = shift(x, starts)
    xr, xw, xk, xv, xa, xg = (x + (before - x) * p["mu_" + n] for n in "rwkvag")
    r, k, v = xr @ p["r_proj"].T, xk @ p["k_proj"].T, xv @ p["v_proj"].T
    decay = np.exp(-np.exp(-0.5) * sigmoid(p["w0"] + np.tanh(xw @ p["w1"].T) @ p["w2"].T))
    rate = sigmoid(p["a0"] + (xa @ p["a1"].T) @ p["a2"].T)
    if v_first is None:
        v_first = v
    else:
        v = v + (v_first - v) * sigmoid(p["v0"] + (xv @ p["v1"].T) @ p["v2"].T)
    kappa = l2_normalize((k * p["k_k"]).reshape(T, heads, D))
    k = k * (1 + (rate - 1) * p["k_a"])
    r, k, vh, decay, rate = (u.reshape(T, heads, D) for u in (r, k, v, decay, rate))
    y = np.zeros((T, heads, D))
    for t in range(T):
        if t == starts[t]:
            S = p["initial_state"].copy() if c.learn_initial_state else np.zeros((heads, D, D))
        for n in range(heads):
            transition = np.diag(decay[t, n]) - np.outer(kappa[t, n], rate[t, n] * kappa[t, n])
            S[n] = S[n] @ transition + np.outer(vh[t, n], k[t, n])
            y[t, n] = S[n] @ r[t, n]
    if c.rwkv_group_norm:
        mean, var = y.mean(-1, keepdims=True), y.var(-1, keepdims=True)
        y = ((y - mean) / np.sqrt(var + D * 1e-5)).reshape(T, -1) * p["ln_x_weight"] + p["ln_x_bias"]
        y = y.reshape(T, heads, D)
    y = y + np.sum(r * k * p["r_k"], axis=-1, keepdims=True) * vh
    y = y.reshape(T, -1)
    if c.rwkv_gate:
        y = y * (1 + sigmoid(xg @ p["g1"].T) @ p["g2"].T)
    return y @ p["o_proj"].T, v_first


# ----------------------------------------------------------------------------- the model and its losses

def forward(c, model, tokens, starts=None, taps=None):
    """tokens: [T] ints -> logits [T, vocab]. taps, a list, receives per layer (mixer input, mixer output)."""
    T = len(tokens)
    starts = np.zeros(T, dtype=int) if starts is None else starts
    h = model["embed_tokens"][tokens]
    v_first = None
    for i, p in enumerate(model["layers"]):
        mixer = c.of_layer(i).mixer
        x = rms_norm(h, p["input_layernorm"], c.rms_norm_eps)
        if mixer == "rwkv7":
            a, v_first = rwkv7_mixer(c, p, x, starts, v_first)
        else:
            a = (attention_mixer if mixer == "attention" else wuneng_mixer)(c, p, x, starts)
        if taps is not None:
            taps.append((x, a))
        h = h + a
        x = rms_norm(h, p["post_attention_layernorm"], c.rms_norm_eps)
        h = h + (silu(x @ p["gate_proj"].T) * (x @ p["up_proj"].T)) @ p["down_proj"].T
    h = rms_norm(h, model["norm"], c.rms_norm_eps)
    return h @ model.get("lm_head", model["embed_tokens"]).T


def alignment_loss(student_outputs, teacher_outputs):
    """Stage 1. Lists over layers of [T, d]: mean over layers and tokens of |teacher - student|_2 /
    sqrt(d)."""
    per_layer = [np.mean(np.linalg.norm(t - s, axis=-1)) / np.sqrt(s.shape[-1])
                 for s, t in zip(student_outputs, teacher_outputs)]
    return float(np.mean(per_layer))


def distillation_loss(student_logits, teacher_logits, mask, temperature=1.0):
    """Stage 2. Word-level KL(teacher || student), over the vocabulary that both share, mean over unmasked
    tokens, times t^2."""
    V = min(student_logits.shape[-1], teacher_logits.shape[-1])
    ls, lt = (log_softmax(x[:, :V] / temperature) for x in (student_logits, teacher_logits))
    kl = np.sum(np.exp(lt) * (lt - ls), axis=-1)
    return float(np.sum(kl * mask) / np.sum(mask)) * temperature ** 2


def sft_loss(logits, labels):
    """Stage 3. Cross entropy of labels[t] under logits[t]; labels below 0 are left out."""
    keep = labels >= 0
    return float(-np.mean(log_softmax(logits[keep])[np.arange(keep.sum()), labels[keep]]))


def dpo_loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, beta=0.1):
    """Stage 3. Arguments: summed log probabilities of the responses, [pairs]."""
    margin = beta * ((policy_chosen - reference_chosen) - (policy_rejected - reference_rejected))
    return float(np.mean(np.logaddexp(0.0, -margin)))


# ----------------------------------------------------------------------------- self-check

def _self_check():
    rng = np.random.default_rng(0)
    options = [dict(cross_head=cross_head, combine_state=combine_state, combine_middle=combine_middle,
                    state_read=read,
                    state_value=value, state_heads=2 if read == "linear" else 4,
                    token_shift=combine_state != "sum",
                    state_query="grouped" if value == ("attention",) else "full",
                    state_key="shared" if cross_head == "additive" else "own",
                    state_rank=0 if cross_head == "gated" else 3, multi_token=value != ("token",))
               for cross_head in ("none", "concat", "additive", "gated")
               for combine_state in ("concat", "sum", "learned")
               for combine_middle in ("concat", "sum", "learned")
               for read in ("linear", "quadratic")
               for value in (("token",), ("attention",), ("attention", "middle"),
                             ("token", "attention", "middle"))]
    for i, option in enumerate(options):
        c = Config(**option, qkv_bias=i % 3 == 0, qk_norm=i % 3 == 1, window=3 if i % 2 else 0)
        model = init_model(c, rng, preserve=True)
        tokens = rng.integers(0, c.vocab_size, 11)
        starts = np.array([0] * 6 + [6] * 5)
        got = forward(c, model, tokens, starts)
        plain = dataclasses.replace(c, mixer="attention")
        assert np.allclose(got, forward(plain, model, tokens, starts), atol=1e-9), option
        model = init_model(c, rng)
        got = forward(c, model, tokens, starts)
        assert np.isfinite(got).all()
        # a packed document is itself
        assert np.allclose(forward(c, model, tokens[6:]), got[6:], atol=1e-9), option
        tokens2 = tokens.copy()
        tokens2[-1] = (tokens2[-1] + 1) % c.vocab_size
        assert np.allclose(forward(c, model, tokens2, starts)[:-1], got[:-1]), option       # causality
    checked = len(options)
    for gate in (False, True):
        for norm in (False, True):
            c = Config(mixer="rwkv7", rwkv_gate=gate, rwkv_group_norm=norm)
            model = init_model(c, rng)
            tokens = rng.integers(0, c.vocab_size, 11)
            got = forward(c, model, tokens, np.array([0] * 6 + [6] * 5))
            assert np.allclose(forward(c, model, tokens[6:]), got[6:], atol=1e-9)
            checked += 1
    print(f"{checked} configurations hold: function-preserving start, packed documents, causality")


if __name__ == "__main__":
    _self_check()
