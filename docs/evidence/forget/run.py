#!/usr/bin/env python3
"""What forgetting rows saves on the Location set: banks of shards and slices, and `sordino forget` on each.

    run.py [--seed 1] [--only whole,s5r1,s5r4]     sSrR: S shards of R slices

Needs `sordino` (built with --features lab) on the path and the Location set as CSV in target/data/bangkok. Only the standard
library is used. Banks go to target/forget and are not trained twice; README.md and forget.json are written beside this file.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("target/forget")
DATA = "csv:target/data/bangkok"
RECIPE = """epochs = 60
batch_size = 64
learning_rate = 1e-3
network = { kind = "mlp", hidden = [256, 128] }
"""
# Shards and slices; none is one model on all rows.
BANKS = [None, (5, 1), (5, 4), (10, 1), (10, 4), (20, 1)]
# Places in the split's list of training rows.
SINGLE = [0, 200, 400, 600, 800, 1000, 1200, 1400]
TOGETHER = 10


def sordino(*words):
    done = subprocess.run(["sordino", *map(str, words)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"sordino {words[0]} failed:\n{done.stderr[-2000:]}")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def forget(bank, rows, out):
    if not (out / "forget.json").exists():
        file = WORK / "rows.txt"
        file.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
        sordino("forget", bank, "--data", DATA, "--rows", file, "--out", out, "--threads", 1)
    return read(out / "forget.json")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="banks, separated by commas")
    args = parser.parse_args()
    wanted = [name for name in args.only.split(",") if name]
    WORK.mkdir(parents=True, exist_ok=True)
    split, recipe = WORK / "rows.split.json", WORK / "recipe.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    if not split.exists():
        sordino("split", "--data", DATA, "--train", 1500, "--validation", 500, "--calibration", 1000, "--test", 2000,
                "--seed", args.seed, "--out", split)
    train = read(split)["parts"]["train"]
    found, record = [], None
    for bank in BANKS:
        name = "whole" if bank is None else f"s{bank[0]}r{bank[1]}"
        if wanted and name not in wanted:
            continue
        folder = WORK / name
        design = ["--whole", 1] if bank is None else ["--sisa", bank[0], *(["--slices", bank[1]] if bank[1] > 1 else [])]
        if not (folder / "ensemble.json").exists():
            sordino("ensemble", "train", "--data", DATA, "--split", split, "--recipe", recipe, "--seed", args.seed, *design,
                    "--out", folder, "--threads", 1)
        measured, manifest = read(folder / "ensemble.json"), read(folder / "bank.json")
        record = read(folder / "model-00000.json")
        row = {"bank": name, "accuracy": measured["test_by_all"]["accuracy"], "seconds": manifest["train_seconds"]}
        if bank:
            singles = [forget(folder, [train[place]], WORK / f"{name}-{place}") for place in SINGLE]
            together = forget(folder, train[5:5 + TOGETHER], WORK / f"{name}-together")
            row |= {"one": [one["retrain_seconds"] for one in singles], "saved": [one["saved"] for one in singles],
                    "from_stage": [one.get("from_stage") for one in singles],
                    "together": {key: together[key] for key in ("retrained", "retrain_seconds", "saved")}}
        found.append(row)
        print(name, flush=True)
    write(found, record, args)


def write(found, record, args):
    code = record["code"] or {"commit": "unknown", "dirty": False}
    lines = [
        "# What forgetting a row saves", "",
        f"The Location set, {len(SINGLE)} requests for one row each and one for {TOGETHER} rows, on banks of 1,500 training rows: MLP "
        "446-256-128-30, 60 epochs, seed "
        f"{args.seed}. *All* is the time that all models of the bank took, *one row* what the models took that knew it (mean ± "
        "standard deviation over the rows), *accuracy* that of the bank's mean answer on 2,000 rows that no model saw. One "
        "thread.", "",
        f"Commit {code['commit'][:12]}{' (changed since)' if code['dirty'] else ''}; {record['machine']['cpu']}, "
        f"{record['machine']['n_cores']} cores. Made by `docs/evidence/forget/run.py`; figures in `forget.json`.", "",
        f"| shards | slices | accuracy | all, s | one row, s | saved | {TOGETHER} rows, s | models of {TOGETHER} rows | saved |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]
    for row in found:
        percent = f"{100 * row['accuracy']:.2f}"
        if row["bank"] == "whole":
            lines.append(f"| 1 | 1 | {percent} | {row['seconds']:.1f} | {row['seconds']:.1f} | 0 % | {row['seconds']:.1f} | 1 | 0 % |")
            continue
        shards, slices = row["bank"][1:].split("r")
        one, saved, together = row["one"], statistics.fmean(row["saved"]), row["together"]
        lines.append(
            f"| {shards} | {slices} | {percent} | {row['seconds']:.1f} | {statistics.fmean(one):.2f} ± {statistics.stdev(one):.2f} | "
            f"{100 * saved:.0f} % | {together['retrain_seconds']:.1f} | {len(together['retrained'])} | {100 * together['saved']:.0f} % |")
    lines += ["", "Saved is against training that bank anew. Ten rows at once are in nearly as many shards. Slices save more for rows of late "
              "slices and nothing for those of the first, and keep a checkpoint each. A bank that is missing here was not run.", "",
              "A set this small flatters nothing: of each model's time about half a second does not depend on its rows (the straight line through "
              "1,500 rows and a tenth of them), so that the banks of many shards take longer than one model, and forgetting a row costs a third "
              "of training one model anew, not a twentieth. What shards cost is accuracy.", ""]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")
    (HERE / "forget.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("wrote README.md and forget.json")


if __name__ == "__main__":
    main()
