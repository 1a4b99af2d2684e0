#!/usr/bin/env python3
"""Training steps beside PyTorch's: the same network, batch and threads, measured in turns in one run.

    run.py --sordino target/release/sordino --torch VENV/bin/python --out benches/runs/<date>-steps

Each round starts both programs once for every network, batch and number of threads, one after the other; what is
reported is the median over the rounds, since a machine with something else to do is slow for minutes at a time. Ours
times whole steps of the trainer, batches read from the data included; PyTorch's inputs lie ready. Nothing is
asserted. Only the standard library is used here; `torch_step.py` beside this file needs PyTorch.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
CASES = [("fcn", 64), ("fcn", 256), ("cnn", 64), ("densenet-bc", 64)]


def ours(sordino, network, batch, threads, device, steps):
    command = [sordino, "devices", "step", "--json", "--network", network, "--batch-size", str(batch), "--steps", str(steps),
               "--rounds", "1", "--device", device]
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def theirs(python, network, batch, threads, device, steps):
    command = [python, str(HERE / "torch_step.py"), "--network", network, "--batch", str(batch), "--threads", str(threads),
               "--steps", str(steps), "--device", device]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def measure(args):
    rows = {}
    for _ in range(args.rounds):
        for network, batch in CASES:
            if args.only and network not in args.only.split(","):
                continue
            steps = {"densenet-bc": 3}.get(network, 20) if args.device == "cpu" else 30
            for threads in [int(n) for n in args.threads.split(",")]:
                print(f"{network} {batch} {threads}", flush=True)
                one = ours(args.sordino, network, batch, threads, args.device, steps)
                other = theirs(args.torch, network, batch, threads, args.torch_device, steps)
                assert one["n_parameters"] == other["parameters"], (network, one["n_parameters"], other["parameters"])
                row = rows.setdefault((network, batch, threads), {"ours": [], "torch": [], "version": other["torch"],
                                                                   "device": one["name"]})
                row["ours"].append(statistics.fmean(one["ms"]))
                row["torch"].append(statistics.fmean(other["ms"]))
    return rows


def page(args, rows, commit, load):
    device = next(iter(rows.values()))["device"]
    version = next(iter(rows.values()))["version"]
    lines = ["# Training steps beside PyTorch", "",
             f"Forward, cross-entropy, backward and Adam, in ms a step: medians over {args.rounds} rounds, in each of which both "
             "were measured once for every line, one after the other (least to most in brackets). Ours reads its batches "
             "from the data, PyTorch's lie ready. *Ratio*: the median of the rounds' own ratios.", "",
             f"commit {commit} · {device}, {os.cpu_count()} cores · Linux {platform.release().split('-')[0]} · PyTorch {version} · load average "
             f"at the start {load}", "",
             "| network | batch | threads | sordino, ms | PyTorch, ms | ratio |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    for (network, batch, threads), row in rows.items():
        ratio = statistics.median(a / b for a, b in zip(row["ours"], row["torch"]))
        cell = [f"{statistics.median(ms):.1f} ({min(ms):.1f}–{max(ms):.1f})" for ms in (row["ours"], row["torch"])]
        lines.append(f"| {network} | {batch} | {threads} | {cell[0]} | {cell[1]} | {ratio:.2f} |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sordino", default="target/release/sordino")
    parser.add_argument("--torch", default="python3", help="a Python that has PyTorch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--device", default="cpu", help="ours")
    parser.add_argument("--torch-device", default="cpu")
    parser.add_argument("--only", default="")
    parser.add_argument("--out")
    args = parser.parse_args()
    load = " ".join(pathlib.Path("/proc/loadavg").read_text(encoding="utf-8").split()[:3])
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], stdout=subprocess.PIPE, text=True,
                            check=False).stdout.strip()
    rows = measure(args)
    text = page(args, rows, commit, load)
    print(text)
    if args.out:
        out = pathlib.Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "README.md").write_text(text, encoding="utf-8")
        keep = [{"network": n, "batch": b, "threads": t, **row} for (n, b, t), row in rows.items()]
        record = {"format": "sordino.bench.steps 1", "commit": commit, "cpu": cpu_name(), "load_average_at_start": load,
                  "rows": keep}
        (out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
