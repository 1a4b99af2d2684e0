#!/usr/bin/env python3
"""Checks a GPU and writes docs/evidence/gpu.md: parity with the processor, centroids, speed, a bank, the paper's table 3.

    check.py --sordino ./sordino --device cuda --cifar10 folder:DIR [--minutes 10] [--only parity,speed]

Needs one binary that was built elsewhere with the device's feature (`just gpu-binary`), its driver (for CUDA NVRTC and
the headers of the toolkit too) and, for the comparison of speed, a python3 that has PyTorch; no Rust. Works off the
pieces in turn and stops after --minutes: start it again until it says that all is done. What is done is kept under
--work, a training that was cut goes on from its last epoch. Only the standard library is used.
"""

import argparse
import json
import os
import pathlib
import random
import signal
import statistics
import struct
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PIECES = ["devices", "parity", "centroids", "speed", "bank", "table3"]

# How far mean losses of epochs may be apart, relative to the processor's.
SAME_LOSS = 1e-2
# How far centroids may be apart in a logit.
SAME_CENTROIDS = 1e-4
N_MODELS = 17


class OutOfTime(Exception):
    """The rest is for the next start."""


class Check:
    def __init__(self, args):
        self.args = args
        self.end = time.monotonic() + 60 * args.minutes - 15
        self.work = pathlib.Path(args.work).resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.sordino = str(pathlib.Path(args.sordino).resolve())

    def left(self):
        return self.end - time.monotonic()

    def run(self, *command, env=None, cwd=None):
        """Runs a command to its end, or ends it gently when the time is over; gives its standard output."""
        if self.left() < 5:
            raise OutOfTime
        log = self.work / "log"
        with open(log, "a", encoding="utf-8") as errors:
            errors.write(f"$ {' '.join(map(str, command))}\n")
            errors.flush()
            process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=errors, text=True, cwd=cwd,
                                       env=env, start_new_session=True)
            try:
                out, _ = process.communicate(timeout=self.left())
            except subprocess.TimeoutExpired:
                # Trainings write a checkpoint when they are asked to end.
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.communicate(timeout=12)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.communicate()
                raise OutOfTime from None
        if process.returncode != 0:
            tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
            raise RuntimeError(f"{command[1:3]} failed ({process.returncode}):\n" + "\n".join(tail))
        return out

    def lab(self, *words, **options):
        return self.run(self.sordino, *words, **options)


def write_stripes(folder, n_rows=2048, side=16, seed=5):
    """IDX files of three kinds of stripes under noise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(seed)
    for stem, n in (("train", n_rows), ("t10k", 6)):
        pixels, labels = bytearray(struct.pack(">IIII", 2051, n, side, side)), bytearray(struct.pack(">II", 2049, n))
        for row in range(n):
            labels.append(row % 3)
            for y in range(side):
                for x in range(side):
                    on = (x, y, x + y)[row % 3] % 4 < 2
                    pixels.append(rng.randint(60, 255) if on else rng.randint(0, 195))
        (folder / f"{stem}-images-idx3-ubyte").write_bytes(pixels)
        (folder / f"{stem}-labels-idx1-ubyte").write_bytes(labels)
    return f"idx:{folder}"


def tensors(path):
    """The f32 tensors of a safetensors file, flat."""
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + size])
    found = {}
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "F32":
            begin, end = entry["data_offsets"]
            found[name] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
    return found


def rows_per_s(text):
    words = text.split()
    return float(words[words.index("rows/s") - 1])


def devices(check):
    found = json.loads(check.lab("devices", "--json"))
    names = {entry["device"]: entry for entry in found["devices"]}
    device = check.args.device if ":" in check.args.device else f"{check.args.device}:0"
    if device not in names:
        reasons = [entry["reason"] for entry in found["unavailable"]]
        raise RuntimeError(f"no {device} here: {'; '.join(reasons)}")
    return {"cpu": names["cpu"]["name"], "gpu": names[device]["name"], "driver": names[device]["driver"]}


def parity(check):
    data = write_stripes(check.work / "stripes")
    losses = {}
    for device in ("cpu", check.args.device):
        out = check.work / "parity" / f"{device.replace(':', '')}.onnx"
        check.lab("train", "--data", data, "--network", "cnn", "--channels", "16,32", "--hidden", "64", "--train-rows", "1024",
                  "--validation-rows", "512", "--epochs", "3", "--device", device, "--fresh", "--out", out)
        history = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["history"]
        losses[device] = [[epoch["train"]["loss"], epoch["validation"]["loss"]] for epoch in history]
    one, other = losses.values()
    apart = max(abs(a - b) / a for x, y in zip(one, other) for a, b in zip(x, y))
    return {"losses": losses, "largest_relative_difference": apart, "tolerance": SAME_LOSS, "held": apart <= SAME_LOSS}


def centroids(check):
    data = write_stripes(check.work / "stripes")
    folder = check.work / "centroids"
    model = folder / "m.onnx"
    if not model.exists():
        # Stopped by a signal, a training leaves its checkpoint beside the model that it had become.
        command = [check.sordino, "train", "--data", data, "--network", "cnn", "--channels", "16,32", "--hidden", "64",
                   "--train-rows", "2000", "--epochs", "100000", "--fresh", "--out", str(model)]
        with open(check.work / "log", "a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            time.sleep(20)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    common = ["centroids", "build", "--quiet", "--data", data, "--model", model, "--split", folder / "m.split.json"]
    rates, files = {}, {}
    for name, more in (("tract", []), (check.args.device, ["--checkpoint", folder / "m.checkpoint", "--device",
                                                          check.args.device])):
        files[name] = folder / f"{name.replace(':', '')}.safetensors"
        rates[name] = rows_per_s(check.lab(*common, "--out", files[name], *more))
    one, other = (tensors(path) for path in files.values())
    apart = max(abs(a - b) for a, b in zip(one["centroids"], other["centroids"]))
    largest = max(map(abs, one["centroids"]))
    return {"rows_per_s": rates, "largest_difference": apart, "largest_value": largest, "tolerance": SAME_CENTROIDS,
            "held": apart <= SAME_CENTROIDS}


def speed(check):
    table = {}
    for network, batch in (("densenet-bc", 64), ("resnet-18", 128), ("cnn", 64), ("fcn", 64)):
        ours = json.loads(check.lab("devices", "step", "--json", "--network", network, "--batch-size", batch, "--steps", 30,
                                    "--rounds", 3, "--device", check.args.device))
        row = {"batch": batch, "ours_ms": statistics.median(ours["ms"])}
        if network != "resnet-18":
            try:
                line = check.run(check.args.python, ROOT / "benches/steps/torch_step.py", "--network", network, "--batch", batch,
                                 "--steps", 60, "--device", check.args.torch_device)
                torch = json.loads(line)
                row |= {"torch_ms": statistics.median(torch["ms"]), "torch": torch["torch"]}
                row["ratio"] = row["torch_ms"] / row["ours_ms"]
            except RuntimeError as error:
                row["torch"] = f"not measured: {str(error).splitlines()[-1]}"
        table[network] = row
    return table


RECIPE = """epochs = 12
batch_size = 256
learning_rate = 1e-3

[network]
kind = "cnn"
channels = [32, 64]
hidden = 128
"""


def bank(check):
    folder = check.work / "bank"
    folder.mkdir(exist_ok=True)
    recipe, split, place = folder / "cnn.toml", folder / "rows.split.json", folder / "bank"
    spent = folder / "seconds"
    recipe.write_text(RECIPE, encoding="utf-8")
    data = check.args.cifar10
    if not split.exists():
        check.lab("split", "--data", data, "--train-rows", 50000, "--test-rows", 10000, "--seed", 1, "--out", split)
    if not (place / "plan.json").exists():
        check.lab("shadows", "plan", "--data", data, "--split", split, "--recipe", recipe, "--ensemble", N_MODELS, "--share",
                  0.5, "--out", place)
    before = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    start = time.monotonic()
    try:
        check.lab("shadows", "run", place, "--data", data, "--device", check.args.device, "--jobs", check.args.jobs)
    finally:
        # Seconds of all sittings, reading the data included.
        spent.write_text(str(before + time.monotonic() - start), encoding="utf-8")
    seconds = float(spent.read_text(encoding="utf-8"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("model-*.json"))]
    accuracy = [record["results"]["test"]["accuracy"] for record in records if (record.get("results") or {}).get("test")]
    return {"n_models": len(records), "seconds": seconds, "jobs": check.args.jobs, "recipe": RECIPE, "held": seconds <= 600,
            "test_accuracy": statistics.fmean(accuracy) if accuracy else None}


def table3(check):
    """Table 3 of the paper at its full size; what it writes stands beside the other tiers."""
    folder = check.work / "path"
    folder.mkdir(exist_ok=True)
    link = folder / "sordino"
    if not link.exists():
        link.symlink_to(check.sordino)
    data = pathlib.Path(ROOT / "target/data/cifar10")
    kind, _, source = check.args.cifar10.partition(":")
    if kind == "folder" and not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        data.symlink_to(pathlib.Path(source).resolve())
    env = {**os.environ, "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
    more = ["--only", check.args.rows] if check.args.rows else []
    for table in ("table3", "table1"):
        check.run(sys.executable, ROOT / "docs/evidence/paper-a/run.py", table, "--tier", "gpu", "--device", check.args.device,
                  *(more if table == "table3" else []), env=env, cwd=ROOT)
    return {"written": ["paper-a/table3-gpu.md", "paper-a/table1-gpu.md"]}


def page(results, args):
    def verdict(part):
        return "held" if part["held"] else "**not held**"

    head = results["devices"]
    lines = ["## On a GPU", "", f"`{args.device}`: {head['gpu']} ({head['driver']}), processor {head['cpu']}. Made by "
             "`docs/evidence/gpu/check.py`.", ""]
    if part := results.get("parity"):
        lines += [f"- **Loss**: three epochs of a small CNN, the same seed on both: mean losses differ by at most "
                  f"{part['largest_relative_difference']:.1e} relative (tolerance {part['tolerance']}): {verdict(part)}."]
    if part := results.get("centroids"):
        rates = ", ".join(f"{name} {rate:.0f}" for name, rate in part["rows_per_s"].items())
        lines += [f"- **Centroids** of the checkpoint against tract's of its ONNX file: {part['largest_difference']:.1e} apart, "
                  f"largest value {part['largest_value']:.1f} (tolerance {part['tolerance']}): {verdict(part)}. Rows/s: {rates}."]
    if part := results.get("bank"):
        accuracy = f", mean test accuracy {100 * part['test_accuracy']:.1f} %" if part["test_accuracy"] else ""
        lines += [f"- **Bank**: {part['n_models']} CIFAR-10 models (small CNN, 12 epochs on half of 50,000 rows) in "
                  f"{part['seconds']:.0f} s, {part['jobs']} at a time{accuracy} (bar 600 s): {verdict(part)}."]
    if part := results.get("speed"):
        lines += ["", "| step | batch | sordino, ms | PyTorch eager, ms | PyTorch / sordino |", "| --- | ---: | ---: | ---: | ---: |"]
        for network, row in part.items():
            torch = f"{row['torch_ms']:.2f} | {row['ratio']:.2f}" if "torch_ms" in row else "– | –"
            lines.append(f"| {network} | {row['batch']} | {row['ours_ms']:.2f} | {torch} |")
    if results.get("table3"):
        lines += ["", "The paper's tables 1 and 3 at full size: [table 1](paper-a/table1-gpu.md), [table 3](paper-a/table3-gpu.md)."]
    missing = [piece for piece in PIECES if piece not in results]
    if missing:
        lines += ["", f"Not yet run: {', '.join(missing)}."]
    return "\n".join(lines) + "\n"


BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def write_page(results, args):
    path = HERE.parent / "gpu.md"
    text = path.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{page(results, args)}{END}{after}", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sordino", default="target/gpu/sordino")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--torch-device", default="cuda")
    parser.add_argument("--python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--cifar10", default="folder:target/data/cifar10", help="a data source of sordino")
    parser.add_argument("--jobs", type=int, default=4, help="models of the bank at a time")
    parser.add_argument("--rows", default="", help="rows of table 3, separated by commas; all without it")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--work", default="target/gpu-check")
    parser.add_argument("--only", default="", help="pieces, separated by commas")
    parser.add_argument("--no-page", action="store_true", help="leave docs/evidence/gpu.md as it is")
    args = parser.parse_args()
    check = Check(args)
    wanted = [piece for piece in args.only.split(",") if piece] or PIECES
    store = check.work / "results.json"
    results = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    status = 0
    for piece in PIECES:
        if piece in results or piece not in wanted + ["devices"]:
            continue
        print(f"{piece} ...", flush=True)
        try:
            results[piece] = globals()[piece](check)
        except OutOfTime:
            print(f"{piece}: the time is over; start again to go on", flush=True)
            status = 75
            break
        except RuntimeError as error:
            print(f"{piece}: {error}", flush=True)
            status = 1
            if piece == "devices":
                return status
            continue
        print(f"{piece}: {json.dumps(results[piece])}", flush=True)
        store.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not args.no_page and "devices" in results:
        write_page(results, args)
    failed = [piece for piece in wanted if not results.get(piece, {}).get("held", True)]
    if failed and status == 0:
        print(f"not held: {', '.join(failed)}", flush=True)
        status = 2
    done = all(piece in results for piece in wanted)
    print("all is done" if done else f"missing: {', '.join(p for p in wanted if p not in results)}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
