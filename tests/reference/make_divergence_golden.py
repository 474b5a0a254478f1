#!/usr/bin/env python3
"""Writes tests/golden/divergences.safetensors: TRL's generalized Jensen-Shannon divergence and its gradient.

Run by hand, never by the tests: needs torch and trl (made with 2.15.0 and 1.16.0). It holds
  student, teacher [T, V]        logits; labels [T], -100: none
  NAME.loss [1]                  GKDTrainer.generalized_jsd_loss in float64, a mean over rows with a label
  NAME.gradient [T, V]           of the student's logits
for NAME in beta_B.temperature_T. TRL does not multiply with the square of the temperature; the program does.
"""
import os

import numpy as np
import torch
from trl.experimental.gkd import GKDTrainer

from model_files import write_safetensors

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")
BETAS, TEMPERATURES, T, V = (0.0, 0.1, 0.5, 0.9, 1.0), (1.0, 0.5, 3.0), 9, 37


def main():
    generator = torch.Generator().manual_seed(5)
    student, teacher = (torch.randn(T, V, generator=generator).float().double() * 2 for _ in range(2))
    labels = torch.randint(0, V, (T,), generator=generator)
    labels[3] = labels[7] = -100
    out = {"student": student.numpy(), "teacher": teacher.numpy(), "labels": labels.numpy()}
    for beta in BETAS:
        for temperature in TEMPERATURES:
            logits = student[None].clone().requires_grad_()
            loss = GKDTrainer.generalized_jsd_loss(logits, teacher[None], labels[None], beta, temperature)
            loss.backward()
            name = f"beta_{beta}.temperature_{temperature}"
            out[name + ".loss"] = np.array([loss.item()])
            out[name + ".gradient"] = logits.grad[0].numpy()
    write_safetensors(os.path.join(GOLDEN, "divergences.safetensors"), out)


if __name__ == "__main__":
    main()
