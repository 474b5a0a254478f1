#!/usr/bin/python3
"""Compares students of one teacher in stages 1 and 2: the paper's Figure 3 in small.

Trains every student with every seed on the same tokens: attention alignment from random mixers, then
word-level distillation from where that ended. Writes OUT/curves.png and OUT/table.md. Without --teacher the
quickstart's teacher is trained first. A run that has ended is not run again.

    launch/experiments/compare_students.py --out out/students
    launch/experiments/compare_students.py --out out/norms --students full full:state_norm=none

With SmolLM2-135M-Instruct as the teacher of 10 layers, after launch/quickstart --real:

    launch/experiments/compare_students.py --out out/real_students --teacher out/real/teacher
        --init-from out/real/ten_layers --data out/real/text --micro-batch 2 --seeds 1

A student is a preset of the mixers wuneng or rwkv7 (full, lean, literal, arwkv, rwkv7), with options behind a
colon: full:state_norm=none,chunk=64.
"""
import argparse
import concurrent.futures
import json
import os
import statistics
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
MIXERS = {"full": "wuneng", "lean": "wuneng", "literal": "wuneng", "arwkv": "rwkv7", "rwkv7": "rwkv7"}
STAGES = ("align", "kl")

# Both stages see the same tokens for every student: batches depend on data.seed alone.
RECIPE = """
[student]
init_from = "{start}"
{student}
[teacher]
path = "{teacher}"
mode = "colocated"
[loss]
objective = "{objective}"
[data]
{data}
seq_len = 256
micro_batch = {micro_batch}
seed = {seed}
[optimizer]
lr = {lr}
min_lr = {min_lr}
warmup = {warmup}
steps = {steps}
[run]
out = "{out}"
seed = {seed}
eval_every = {eval_every}
eval_batches = 8
log_every = 1000000
device = "auto"
"""


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True, help="folder for the runs, the picture and the table")
    p.add_argument("--wuneng", default=os.path.join(ROOT, "build", "release", "launch", "wuneng"))
    p.add_argument("--teacher", help="a Hugging Face directory; default: one on bytes that is trained first")
    p.add_argument("--init-from", help="what students have beside their mixers; default: the teacher's")
    p.add_argument("--data", nargs="+", help="text or token files, as in data.paths; default: this checkout")
    p.add_argument("--micro-batch", type=int, default=8, help="sequences of 256 tokens a step")
    p.add_argument("--teacher-steps", type=int, default=500, help="of the teacher that is trained here")
    p.add_argument("--students", nargs="+", default=["full", "lean", "literal", "arwkv"])
    p.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    p.add_argument("--steps", nargs=2, type=int, default=[150, 300], metavar=("ALIGN", "KL"),
                   help="of the stages; KL 0: stage 1 alone")
    p.add_argument("--lr", nargs=2, type=float, default=[3e-3, 1e-3], metavar=("ALIGN", "KL"))
    p.add_argument("--jobs", type=int, default=2, help="runs at a time, of one rank each")
    return p.parse_args()


def checkout():
    names = ("README.md", "docs", "runtime", "kernels", "parallel", "model", "data", "launch", "tests")
    return json.dumps([os.path.join(ROOT, name) for name in names])


def data_keys(a):
    if a.data:
        return "paths = " + json.dumps([os.path.abspath(path) for path in a.data])
    return f'paths = {checkout()}\nextensions = [".h", ".cpp", ".md", ".py", ".toml"]'


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}{done.stderr}")


def train_teacher(a):
    out, model = os.path.join(a.out, "teacher"), os.path.join(a.out, "teacher", "model")
    if not os.path.exists(os.path.join(model, "config.json")):
        print("training a teacher", flush=True)
        run(a.wuneng, "train", os.path.join(ROOT, "launch", "recipes", "quickstart_teacher.toml"),
            "run.out=" + out, "layout.tp=1", f"optimizer.steps={a.teacher_steps}",
            "data.paths=" + checkout())
        run(a.wuneng, "convert", os.path.join(out, "checkpoints"), model)
    return model


def student_keys(name):
    preset, _, options = name.partition(":")
    if preset not in MIXERS:
        sys.exit(f"--students {name}: expected one of {', '.join(MIXERS)}, found {preset}")
    lines = [f'mixer = "{MIXERS[preset]}"', f'preset = "{preset}"']
    for option in filter(None, options.split(",")):
        key, _, value = option.partition("=")
        lines.append(f"{key} = {value if value[:1] in '0123456789[tf' else json.dumps(value)}")
    return "\n".join(lines)


def folder(a, name, seed, stage):
    return os.path.join(a.out, name.replace(":", "_").replace(",", "_"), f"seed{seed}", stage)


def metrics(out):
    with open(os.path.join(out, "metrics.jsonl")) as f:
        return [json.loads(line) for line in f]


def train(a, teacher, name, seed):
    start, keys = os.path.abspath(a.init_from or teacher), student_keys(name) + '\ninit = "mixer_random"'
    for stage, steps, lr in zip(stages(a), a.steps, a.lr):
        out = folder(a, name, seed, stage)
        os.makedirs(out, exist_ok=True)
        path = out + ".toml"
        with open(path, "w") as f:
            f.write(RECIPE.format(start=start, student=keys, teacher=teacher, objective=stage,
                                  micro_batch=a.micro_batch, data=data_keys(a), seed=seed, lr=lr,
                                  min_lr=lr / 10, warmup=min(20, steps // 10), steps=steps, out=out,
                                  eval_every=max(1, steps // 6)))
        run(a.wuneng, "train", path)
        start, keys = os.path.join(out, "checkpoints"), ""
    last = [x for x in metrics(out) if "held_out_loss" in x][-1]
    print(f"{name}, seed {seed}: held-out {stage} {last['held_out_loss']:.4f}", flush=True)


def stages(a):
    return [stage for stage, steps in zip(STAGES, a.steps) if steps > 0]


def held_out(a, name, stage):
    """By seed: [(step, figure)]; the stage's loss without temperature or mixing."""
    key = "held_out_loss" if stage == "align" else "held_out_kl"
    return [[(x["step"], x[key]) for x in metrics(folder(a, name, seed, stage)) if key in x]
            for seed in a.seeds]


def table(a):
    heads = {"align": f"alignment after {a.steps[0]} steps", "kl": f"KL after {a.steps[1]} more"}
    lines = ["| student | " + " | ".join(f"{heads[s]}, by seed | mean" for s in stages(a)) + " |",
             "|---" * (1 + 2 * len(stages(a))) + "|"]
    for name in a.students:
        cells = []
        for stage in stages(a):
            ends = [seed[-1][1] for seed in held_out(a, name, stage)]
            cells += [", ".join(f"{x:.4f}" for x in ends), f"{statistics.mean(ends):.4f}"]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(a, path):
    try:
        import matplotlib
    except ImportError:
        print("no curves.png: it needs matplotlib (apt-get install python3-matplotlib)")
        return
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, len(stages(a)), figsize=(5 * len(stages(a)), 4), squeeze=False)
    axes = axes[0]
    titles = ("stage 1: attention alignment", "stage 2: distillation, KL")
    for axis, stage, title in zip(axes, stages(a), titles):
        for name in a.students:
            curves = held_out(a, name, stage)
            steps = [step for step, _ in curves[0]]
            values = [[y for _, y in curve] for curve in curves]
            mean = [statistics.mean(v) for v in zip(*values)]
            line, = axis.plot(steps, mean, label=name)
            axis.fill_between(steps, [min(v) for v in zip(*values)], [max(v) for v in zip(*values)],
                              color=line.get_color(), alpha=0.2, linewidth=0)
        axis.set(title=title, xlabel=f"steps of {256 * a.micro_batch:,} tokens", yscale="log")
        axis.grid(True, which="both", alpha=0.3)
    axes[0].set_ylabel(f"held out, mean and range of {len(a.seeds)} seeds")
    axes[0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main():
    a = arguments()
    a.out = os.path.abspath(a.out)
    os.makedirs(a.out, exist_ok=True)
    if not os.path.exists(a.wuneng):
        sys.exit(f"--wuneng {a.wuneng}: expected the program, found no file (launch/quickstart builds it)")
    teacher = os.path.abspath(a.teacher) if a.teacher else train_teacher(a)
    jobs = [(name, seed) for seed in a.seeds for name in a.students]
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        for done in [pool.submit(train, a, teacher, *job) for job in jobs]:
            done.result()
    text = table(a)
    with open(os.path.join(a.out, "table.md"), "w") as f:
        f.write(text)
    print(text)
    draw(a, os.path.join(a.out, "curves.png"))


if __name__ == "__main__":
    main()
