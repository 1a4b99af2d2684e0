#!/usr/bin/env python3
"""Training steps beside PyTorch's: the same network, batch and threads, measured in turns in one run.

    run.py --sordino target/release/sordino --torch VENV/bin/python --out benches/runs/<date>-steps

Each round starts both programs once for every network, batch and number of threads, one after the other. Each times a
few pieces of a few steps. Reported are the least piece and the median one over all rounds: a machine with something
else to do is slow for minutes at a time, and its least is what it does when it is let. Ours times whole steps of the
trainer, batches read from the data included; PyTorch's inputs lie ready. Nothing is asserted. Only the standard
library is used here; `torch_step.py` beside this file needs PyTorch.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
CASES = [("fcn", 64), ("fcn", 256), ("cnn", 64), ("resnet-9", 32), ("densenet-bc", 64)]
COMMAND = "benches/steps/run.py --sordino target/release/sordino --torch VENV/bin/python"
# Pieces of so many steps, for each network: both programs time the same.
PIECES = {"densenet-bc": (1, 1), "resnet-9": (3, 1)}


def ours(sordino, network, batch, threads, device, pieces, steps):
    command = [sordino, "devices", "step", "--json", "--network", network, "--batch-size", str(batch), "--steps", str(steps),
               "--rounds", str(pieces), "--device", device]
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def theirs(python, network, batch, threads, device, pieces, steps):
    command = [python, str(HERE / "torch_step.py"), "--network", network, "--batch", str(batch), "--threads", str(threads),
               "--steps", str(pieces * steps), "--device", device]
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    out = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(out)


def operators(args):
    """Least milliseconds of each operator alone: {threads: {name: [ours, theirs]}}."""
    found = {}
    for _ in range(args.rounds if args.ops else 0):
        for threads in args.threads.split(","):
            env = {**os.environ, "RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
            both = [json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True).stdout)
                    for command in ([args.ops], [args.torch, str(HERE / "torch_ops.py"), threads])]
            of = found.setdefault(threads, {})
            for name, ms in both[0].items():
                one = of.setdefault(name, [[float("inf")] * 2, None])
                one[0] = [min(pair) for pair in zip(one[0], ms)]
            for name, ms in both[1].items():
                of[name][1] = [min(pair) for pair in zip(of[name][1] or ms, ms)]
    return found


def operator_lines(found):
    lines = []
    for threads, of in found.items():
        lines += ["", f"Operators of the small CNN alone, batches of 64, {threads} thread(s): least ms, forward and derivatives", "",
                  "| operator | burn | PyTorch | ratio |", "| --- | ---: | ---: | ---: |"]
        for name, (ours, theirs) in of.items():
            theirs = theirs or of[name.split(":")[0]][1]
            cell = [" + ".join(f"{ms:.1f}" for ms in both) for both in (ours, theirs)]
            lines.append(f"| {name} | {cell[0]} | {cell[1]} | {sum(ours) / sum(theirs):.1f} |")
    return lines


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
            shape = PIECES.get(network, (6, 4)) if args.device == "cpu" else (5, 10)
            for threads in [int(n) for n in args.threads.split(",")]:
                print(f"{network} {batch} {threads}", flush=True)
                one = ours(args.sordino, network, batch, threads, args.device, *shape)
                other = theirs(args.torch, network, batch, threads, args.torch_device, *shape)
                assert one["n_parameters"] == other["parameters"], (network, one["n_parameters"], other["parameters"])
                row = rows.setdefault((network, batch, threads), {"ours": [], "torch": [], "version": other["torch"],
                                                                   "device": one["name"]})
                row["ours"].extend(one["ms"])
                row["torch"].extend(statistics.fmean(piece) for piece in zip(*[iter(other["ms"])] * shape[1]))
    return rows


def page(args, rows, commit, load):
    device = next(iter(rows.values()))["device"]
    version = next(iter(rows.values()))["version"]
    lines = ["# Training steps beside PyTorch", "", "```", f"{COMMAND} --rounds {args.rounds} --threads {args.threads}", "```", "",
             f"Forward, cross-entropy, backward and Adam, in ms a step; {args.rounds} rounds, in each of which both were measured "
             "for every line, one after the other, in pieces of a few steps: the least piece, the median, the most. Ours reads its "
             "batches from the data, PyTorch's lie ready. *Ratio*: ours to PyTorch's, of the least and of the medians.", "",
             f"commit {commit} · {device}, {os.cpu_count()} cores · Linux {platform.release().split('-')[0]} · PyTorch {version} · load average "
             f"at the start {load}", "",
             "| network | batch | threads | sordino: least, median, most | PyTorch: least, median, most | ratio of least | of medians |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for (network, batch, threads), row in rows.items():
        both = [(min(ms), statistics.median(ms), max(ms)) for ms in (row["ours"], row["torch"])]
        cell = [f"{least:.1f}, {median:.1f}, {most:.1f}" for least, median, most in both]
        least, median = both[0][0] / both[1][0], both[0][1] / both[1][1]
        lines.append(f"| {network} | {batch} | {threads} | {cell[0]} | {cell[1]} | {least:.2f} | {median:.2f} |")
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
    parser.add_argument("--ops", help="the program of `cargo bench --features lab --bench ops --no-run`")
    parser.add_argument("--out")
    args = parser.parse_args()
    load = " ".join(pathlib.Path("/proc/loadavg").read_text(encoding="utf-8").split()[:3])
    commit = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], stdout=subprocess.PIPE, text=True,
                            check=False).stdout.strip()
    rows = measure(args)
    alone = operators(args)
    text = page(args, rows, commit, load) + "\n".join([*operator_lines(alone), ""])
    print(text)
    if args.out:
        out = pathlib.Path(args.out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "README.md").write_text(text, encoding="utf-8")
        keep = [{"network": n, "batch": b, "threads": t, **row} for (n, b, t), row in rows.items()]
        record = {"format": "sordino.bench.steps 2", "commit": commit, "cpu": cpu_name(), "load_average_at_start": load,
                  "rows": keep, "operators": alone}
        (out / "results.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
