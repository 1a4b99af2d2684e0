#!/usr/bin/env python3
"""Checks a GPU and writes docs/evidence/gpu.md: parity with the processor, centroids, speed, a bank, the paper's table 3.

    check.py --sordino ./sordino --device cuda --cifar10 folder:DIR [--minutes 10] [--only parity,speed]
    check.py --sordino ./sordino --dry-run       has the program parse every command line, and runs none
    check.py --sordino ./sordino --device cpu --tiny --only parity,speed,bank    few rows: that it runs, judging nothing

Needs one binary that was built elsewhere with the device's feature (`just gpu-binary`), its driver (for CUDA NVRTC and
the headers of the toolkit too) and, for the comparison of speed, a python3 that has PyTorch; no Rust. Works off the
pieces in turn and stops after --minutes: start it again until it says that all is done. What is done is kept under
--work, a training that was cut goes on from its last epoch. Only the standard library is used.

Exit codes: 0 when all that was asked for is done and every bar is held, 2 when a bar is not held or could not be judged
(the speed without PyTorch), 75 when the time is over, 1 when something failed.
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
# The bank's bar.
BANK_SECONDS = 600
# A DenseNet step's bar: PyTorch's time over ours.
DENSENET_RATIO = 0.7
# The pieces that have a bar: nothing but `held` is a pass.
JUDGED = ["parity", "centroids", "speed", "bank"]
STEPS = [("densenet-bc", 64), ("resnet-18", 128), ("cnn", 64), ("fcn", 64)]


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


class Lines:
    """Every command line of the program that is used here, in one place: what `--dry-run` has it parse."""

    DEVICES = ["devices", "--json"]
    SMALL = ["--network", "cnn", "--channels", "16,32", "--hidden", "64", "--fresh"]

    @classmethod
    def parity(cls, data, device, out, n_rows=1024):
        return ["train", "--data", data, *cls.SMALL, "--train-rows", n_rows, "--validation-rows", n_rows // 2, "--epochs", 3,
                "--device", device, "--out", out]

    @classmethod
    def endless(cls, data, out):
        return ["train", "--data", data, *cls.SMALL, "--train-rows", 2000, "--epochs", 100000, "--out", out]

    @staticmethod
    def centroids(data, folder, out, device=None):
        line = ["centroids", "build", "--quiet", "--data", data, "--model", folder / "m.onnx", "--split",
                folder / "m.split.json", "--out", out]
        return line + (["--checkpoint", folder / "m.checkpoint", "--device", device] if device else [])

    @staticmethod
    def step(network, batch, device, steps=30, rounds=3):
        return ["devices", "step", "--json", "--network", network, "--batch-size", batch, "--steps", steps, "--rounds",
                rounds, "--device", device]

    @staticmethod
    def split(data, out, n_train=50000, n_test=10000):
        return ["split", "--data", data, "--train", n_train, "--test", n_test, "--seed", 1, "--out", out]

    @staticmethod
    def plan(data, split, recipe, out, n_models=N_MODELS):
        return ["shadows", "plan", "--data", data, "--split", split, "--recipe", recipe, "--ensemble", n_models, "--share",
                0.5, "--out", out]

    @staticmethod
    def bank(place, data, device, jobs):
        return ["shadows", "run", place, "--data", data, "--device", device, "--jobs", jobs]

    @classmethod
    def all(cls, args):
        folder, data = pathlib.Path("f"), args.cifar10
        steps = [cls.step(network, batch, args.device) for network, batch in STEPS]
        return [cls.DEVICES, cls.parity(data, args.device, "o.onnx"), cls.endless(data, "o.onnx"),
                cls.centroids(data, folder, "o"), cls.centroids(data, folder, "o", args.device), *steps,
                cls.split(data, "s"), cls.plan(data, "s", "r.toml", "b"), cls.bank("b", data, args.device, args.jobs)]


def dry_run(args):
    """Has the program parse every line: with --help behind the rest it does that, and then no more than print its help."""
    n_wrong = 0
    for line in Lines.all(args):
        done = subprocess.run([args.sordino, *map(str, line), "--help"], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            n_wrong += 1
            print(f"{' '.join(map(str, line))}: {done.stderr.strip() or done.returncode}", flush=True)
    print(f"{len(Lines.all(args))} command lines, {n_wrong} that sordino does not understand", flush=True)
    return 1 if n_wrong else 0


def devices(check):
    found = json.loads(check.lab(*Lines.DEVICES))
    names = {entry["device"]: entry for entry in found["devices"]}
    device = check.args.device if ":" in check.args.device or check.args.device == "cpu" else f"{check.args.device}:0"
    if device not in names:
        reasons = [entry["reason"] for entry in found["unavailable"]]
        raise RuntimeError(f"no {device} here: {'; '.join(reasons)}")
    return {"cpu": names["cpu"]["name"], "gpu": names[device]["name"], "driver": names[device].get("driver")}


def parity(check):
    data = write_stripes(check.work / "stripes")
    losses = {}
    for device in ("cpu", check.args.device):
        out = check.work / "parity" / f"{device.replace(':', '')}.onnx"
        check.lab(*Lines.parity(data, device, out, 64 if check.args.tiny else 1024))
        history = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))["history"]
        losses[device] = [[epoch["train"]["loss"], epoch["validation"]["loss"]] for epoch in history]
    one, other = losses["cpu"], losses[check.args.device]
    apart = max(abs(a - b) / a for x, y in zip(one, other) for a, b in zip(x, y))
    return {"losses": losses, "largest_relative_difference": apart, "tolerance": SAME_LOSS, "held": apart <= SAME_LOSS}


def centroids(check):
    data = write_stripes(check.work / "stripes")
    folder = check.work / "centroids"
    model = folder / "m.onnx"
    if not model.exists():
        # Stopped by a signal, a training leaves its checkpoint beside the model that it had become.
        command = [check.sordino, *map(str, Lines.endless(data, model))]
        with open(check.work / "log", "a", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            time.sleep(20)
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)
    rates, files = {}, {}
    for name, device in (("tract", None), (check.args.device, check.args.device)):
        files[name] = folder / f"{name.replace(':', '')}.safetensors"
        rates[name] = rows_per_s(check.lab(*Lines.centroids(data, folder, files[name], device)))
    one, other = (tensors(path) for path in files.values())
    apart = max(abs(a - b) for a, b in zip(one["centroids"], other["centroids"]))
    largest = max(map(abs, one["centroids"]))
    return {"rows_per_s": rates, "largest_difference": apart, "largest_value": largest, "tolerance": SAME_CENTROIDS,
            "held": apart <= SAME_CENTROIDS}


def speed(check):
    tiny = check.args.tiny
    table = {}
    for network, batch in [("cnn", 8)] if tiny else STEPS:
        steps, rounds = (2, 2) if tiny else (30, 3)
        ours = json.loads(check.lab(*Lines.step(network, batch, check.args.device, steps, rounds)))
        row = {"batch": batch, "ours_ms": statistics.median(ours["ms"])}
        try:
            line = check.run(check.args.python, ROOT / "benches/steps/torch_step.py", "--network", network, "--batch", batch,
                             "--steps", 2 * steps, "--device", check.args.torch_device)
            torch = json.loads(line)
            row |= {"torch_ms": statistics.median(torch["ms"]), "torch": torch["torch"]}
            row["ratio"] = row["torch_ms"] / row["ours_ms"]
        except (RuntimeError, OSError) as error:
            row["torch"] = f"not measured: {str(error).splitlines()[-1]}"
        table[network] = row
    return {"steps": table, "bar": DENSENET_RATIO, "held": speed_held(table)}


def speed_held(table):
    """Whether a DenseNet step is fast enough beside PyTorch's; `None` where PyTorch did not run: that is no pass."""
    ratio = table.get("densenet-bc", {}).get("ratio")
    return None if ratio is None else ratio >= DENSENET_RATIO


RECIPE = """epochs = {epochs}
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
    tiny = check.args.tiny
    n_models, n_train, n_test = (3, 600, 200) if tiny else (N_MODELS, 50000, 10000)
    text = RECIPE.format(epochs=1 if tiny else 12)
    recipe.write_text(text, encoding="utf-8")
    data = write_stripes(check.work / "stripes") if tiny else check.args.cifar10
    if not split.exists():
        check.lab(*Lines.split(data, split, n_train, n_test))
    if not (place / "plan.json").exists():
        check.lab(*Lines.plan(data, split, recipe, place, n_models))
    before = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    start = time.monotonic()
    try:
        check.lab(*Lines.bank(place, data, check.args.device, check.args.jobs))
    finally:
        # Seconds of all sittings, reading the data included.
        spent.write_text(str(before + time.monotonic() - start), encoding="utf-8")
    seconds = float(spent.read_text(encoding="utf-8"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(place.glob("model-*.json"))]
    accuracy = [record["results"]["test"]["accuracy"] for record in records if (record.get("results") or {}).get("test")]
    held = len(records) == N_MODELS and seconds <= BANK_SECONDS
    return {"n_models": len(records), "seconds": seconds, "jobs": check.args.jobs, "recipe": text, "held": held,
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
        return {True: "held", False: "**not held**", None: "**not judged**"}[part["held"]]

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
                  f"{part['seconds']:.0f} s, {part['jobs']} at a time{accuracy} (bar {BANK_SECONDS} s): {verdict(part)}."]
    if part := results.get("speed"):
        lines += ["", "| step | batch | sordino, ms | PyTorch eager, ms | PyTorch / sordino |", "| --- | ---: | ---: | ---: | ---: |"]
        for network, row in part["steps"].items():
            torch = f"{row['torch_ms']:.2f} | {row['ratio']:.2f}" if "torch_ms" in row else "– | –"
            lines.append(f"| {network} | {row['batch']} | {row['ours_ms']:.2f} | {torch} |")
        without = [f"{network}: {row['torch']}" for network, row in part["steps"].items() if "torch_ms" not in row]
        lines += ["", f"A DenseNet step at {DENSENET_RATIO} of PyTorch's speed or more: {verdict(part)}."]
        lines += [f"PyTorch, {'; '.join(without)}."] if without else []
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


def is_done(results, piece):
    """A piece that could not be judged is done again, when what it lacked may be there."""
    return piece in results and not (piece in JUDGED and results[piece].get("held") is None)


def not_held(results, wanted):
    """The pieces asked for whose bar is not held, with why."""
    words = {False: "below the bar", None: "not judged"}
    held = {piece: results[piece].get("held") for piece in wanted if piece in JUDGED and piece in results}
    return {piece: words[verdict] for piece, verdict in held.items() if verdict is not True}


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
    parser.add_argument("--dry-run", action="store_true", help="have sordino parse every command line, and run none")
    parser.add_argument("--tiny", action="store_true", help="few rows, steps and epochs; judges nothing, writes no page")
    parser.add_argument("--no-page", action="store_true", help="leave docs/evidence/gpu.md as it is")
    args = parser.parse_args()
    if args.dry_run:
        return dry_run(args)
    if args.tiny:
        args.no_page, args.work = True, f"{args.work}-tiny"
    check = Check(args)
    wanted = [piece for piece in args.only.split(",") if piece] or PIECES
    store = check.work / "results.json"
    results = json.loads(store.read_text(encoding="utf-8")) if store.exists() else {}
    status = 0
    for piece in PIECES:
        if is_done(results, piece) or piece not in wanted + ["devices"]:
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
    verdict = {} if args.tiny else not_held(results, wanted)
    if verdict:
        print(f"not held: {', '.join(f'{piece} ({why})' for piece, why in verdict.items())}", flush=True)
        status = status or 2
    done = all(piece in results for piece in wanted)
    print("all is done" if done else f"missing: {', '.join(p for p in wanted if p not in results)}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
