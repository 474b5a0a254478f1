#!/usr/bin/python3
"""Writes tests/golden/dpo.json: losses, rewards and gradients of direct preference optimisation as TRL 0.9.6
computes them (DPOTrainer.get_batch_logps and DPOTrainer.dpo_loss, loss type "sigmoid"; later releases have no
label smoothing), in double precision.

usage: make_dpo_golden.py TRL_DIRECTORY OUT

Needs PyPI's torch; TRL_DIRECTORY is where the wheel trl-0.9.6 is unpacked. Its two functions are taken from
the source, because the rest of that release does not load beside today's transformers.
"""
import ast
import json
import os
import sys
import textwrap
import types
from enum import Enum
from typing import Tuple

import torch
import torch.nn.functional as F

LENGTHS = (5, 7, 4, 9, 8, 3, 6, 6)  # chosen, rejected, chosen, ...
PROMPTS = (2, 2, 1, 1, 3, 0, 2, 3)  # tokens without a loss, not all answers to one prompt
PADDING, D, V = 3, 6, 29
CASES = [dict(beta=0.1), dict(beta=0.7, label_smoothing=0.2), dict(beta=2.0, length_normalised=True),
         dict(beta=1.5, label_smoothing=0.05, length_normalised=True)]


class FDivergenceType(Enum):
    REVERSE_KL, JS_DIVERGENCE, ALPHA_DIVERGENCE = "reverse_kl", "js_divergence", "alpha_divergence"


def trl_functions(directory):
    path = os.path.join(directory, "trl", "trainer", "dpo_trainer.py")
    with open(path) as f:
        text = f.read()
    names = {"torch": torch, "F": F, "Tuple": Tuple, "FDivergenceType": FDivergenceType}
    trainer, = (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef) and n.name == "DPOTrainer")
    for function in trainer.body:
        if isinstance(function, ast.FunctionDef) and function.name in ("dpo_loss", "get_batch_logps"):
            exec(textwrap.dedent(ast.get_source_segment(text, function)), names)
    return names["dpo_loss"], names["get_batch_logps"]


def as_f32(x):
    return x.float().double()


def case_of(functions, hidden, head, answers, tokens, reference, beta, label_smoothing=0.0,
            length_normalised=False):
    dpo_loss, get_batch_logps = functions
    hidden, head = (x.clone().requires_grad_() for x in (hidden, head))
    policy, expected = [], []
    for (begin, end, prompt), ids in zip(answers, tokens):
        labels = ids.clone()
        labels[:prompt] = -100
        total, count = get_batch_logps((hidden[begin:end] @ head.T)[None], labels[None])
        share = 1 / count.item() if length_normalised else 1
        policy.append(total[0] * share)
        expected.append(reference[begin:end].sum() * share)
    trainer = types.SimpleNamespace(
        accelerator=types.SimpleNamespace(device="cpu"), reference_free=False, loss_type="sigmoid", beta=beta,
        label_smoothing=label_smoothing, f_divergence_type=FDivergenceType.REVERSE_KL.value)
    policy, expected = torch.stack(policy), torch.stack(expected)
    losses, chosen, rejected = dpo_loss(trainer, policy[0::2], policy[1::2], expected[0::2], expected[1::2])
    losses.mean().backward()
    return dict(beta=beta, label_smoothing=label_smoothing, length_normalised=length_normalised,
                loss=losses.mean().item(), reward_chosen=chosen.mean().item(),
                reward_rejected=rejected.mean().item(), accuracy=(chosen > rejected).double().mean().item(),
                logp_chosen=policy[0::2].mean().item(), logp_rejected=policy[1::2].mean().item(),
                hidden_gradient=numbers(hidden.grad), head_gradient=numbers(head.grad))


def numbers(x):
    return [float(f"{v:.9g}") for v in x.detach().flatten().tolist()]


def main():
    torch.manual_seed(4)
    T = sum(LENGTHS) + PADDING
    hidden, head = (as_f32(torch.randn(n, D, dtype=torch.float64)) for n in (T, V))
    labels, reference = torch.full((T,), -100), torch.zeros(T, dtype=torch.float64)
    documents, answers, tokens, begin = [], [], [], 0
    for length, prompt in zip(LENGTHS, PROMPTS):
        ids = torch.randint(0, V, (length,))
        documents.append(begin)
        answers.append((begin, begin + length, prompt))
        tokens.append(ids)
        for t in range(max(prompt, 1), length):  # the first token is nobody's label
            labels[begin + t - 1] = ids[t]
            reference[begin + t - 1] = as_f32(-5 * torch.rand(1, dtype=torch.float64))[0]
        begin += length
    functions = trl_functions(sys.argv[1])
    golden = dict(width=D, vocabulary=V, documents=documents + [begin, T],
                  pairs=list(range(0, len(LENGTHS), 2)), hidden=numbers(hidden), head=numbers(head),
                  labels=labels.tolist(),
                  reference=numbers(reference),
                  cases=[case_of(functions, hidden, head, answers, tokens, reference, **c) for c in CASES])
    with open(sys.argv[2], "w") as f:
        json.dump(golden, f)
        f.write("\n")


if __name__ == "__main__":
    main()
