#!/usr/bin/env python3
"""Trains the rows of the tables 1 to 3 of "Membership Inference Attacks Beyond Overfitting" and writes the tables.

    run.py table1|table2|table3|location [--tier ci|cpu|gpu] [--seeds 3] [--device cpu] [--only original,l2-5e-4]
    run.py table3 --write      nothing is trained: the table of the records that are there

Tiers: `ci` takes seconds and proves that it runs, `cpu` is what two cores train in an hour, `gpu` has the paper's
sizes and epochs. A run whose record is there is not done again, so that the command may be stopped and started; a
training that was stopped is resumed. `--only` says what is trained; the table has every row of which a record is
there, so that more seeds may be given to some rows than to others. Needs `sordino` (built with --features lab) on the path; table 3 reads CIFAR-10
as an image folder from target/data/cifar10, `location` the Location set as CSV from target/data/bangkok. Table 2
runs on a seeded look-alike of Purchase-100, since the original is not free to fetch.
Only the standard library is used. Models and records go to target/paper-a, tables to docs/evidence/paper-a.
"""

import argparse
import json
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("target/paper-a")

# The paper's tables: train accuracy, test accuracy, runtime in seconds, AUC and advantage of the loss attack.
PAPER = {
    "table1": {"densenet": (99.97, 87.91, None, 60.27, 22.07), "resnet18": (99.26, 82.79, None, 64.45, 28.31)},
    "table2": {
        "original": (97.76, 87.54, 1201, 57.27, 13.86),
        "early-stopping": (96.88, 89.58, 200, 55.07, 10.40),
        "l2-5e-4": (94.91, 89.34, 1209, 53.25, 7.26),
        "l2-1e-3": (92.63, 88.37, 1205, 52.22, 4.87),
        "l2-5e-3": (77.76, 76.16, 1207, 50.92, 1.73),
        "regdrop-25": (90.02, 87.14, 1489, 51.87, 3.70),
        "regdrop-50": (86.52, 84.45, 1320, 51.44, 2.46),
        "label-smoothing": (99.15, 88.52, 1699, 59.43, 16.43),
        "dp": (61.71, 61.21, 3507, 50.36, 0.70),
    },
    "table3": {
        "original": (99.97, 87.91, 3558, 60.27, 22.07),
        "early-stopping": (99.97, 87.93, 2024, 60.21, 21.96),
        "l2-5e-4": (99.99, 91.46, 3573, 57.11, 19.13),
        "l2-1e-3": (99.95, 89.61, 3564, 58.07, 20.52),
        "l2-5e-3": (60.35, 59.71, 3574, 50.06, 0.82),
        "regdrop-25": (99.85, 91.78, 3616, 56.00, 15.44),
        "regdrop-50": (91.97, 84.89, 3610, 53.61, 7.52),
        "label-smoothing": (99.99, 86.47, 3539, 67.33, 37.04),
        "dp": (59.51, 59.55, 7738, 50.00, 0.53),
    },
    "location": {},
}

CNN = {"kind": "cnn", "channels": [32, 64], "hidden": 128}
FCN = {"kind": "mlp", "hidden": [1024, 512, 256, 128], "activation": "tanh"}
DENSENET = {"kind": "densenet", "depth": 100, "growth": 12, "compression": 0.5, "norm": "batch"}
RESNET = {"kind": "resnet", "blocks": [2, 2, 2, 2], "width": 64, "norm": "batch"}
CIFAR = "cifar10"
SGD = {"kind": "sgd", "momentum": 0.9}
STEPS = {"kind": "steps", "at": [30, 60, 90], "factor": 0.1}

# For each table and tier: the data, rows of each part, and the recipe that the rows change.
SETS = {
    ("table3", "ci"): ("folder:target/data/cifar10", (400, 100, 0, 400),
                       dict(network=CNN, epochs=2, batch_size=64, learning_rate=1e-3, normalise=CIFAR)),
    ("table3", "cpu"): ("folder:target/data/cifar10", (4000, 1000, 1000, 4000),
                        dict(network=CNN, epochs=12, batch_size=64, learning_rate=1e-3, normalise=CIFAR)),
    # The paper trains 50,000 of the pooled 60,000 and stops early on the rows that it attacks with; here validation
    # rows are their own.
    ("table3", "gpu"): ("folder:target/data/cifar10", (45000, 5000, 0, 10000),
                        dict(network=DENSENET, epochs=100, batch_size=64, shuffle=False, learning_rate=0.1, normalise=CIFAR,
                             optimizer=SGD, schedule=STEPS)),
    ("table2", "ci"): ("purchase-look-alike:4000", (1000, 200, 0, 1000),
                       dict(network=FCN, epochs=2, batch_size=32, learning_rate=5e-4)),
    ("table2", "cpu"): ("purchase-look-alike:40000", (20000, 2000, 2000, 10000),
                        dict(network=FCN, epochs=20, batch_size=64, learning_rate=5e-4)),
    ("table2", "gpu"): ("purchase-look-alike", (147859, 10000, 0, 39465),
                        dict(network=FCN, epochs=100, batch_size=32, shuffle=False, learning_rate=5e-4)),
    ("location", "ci"): ("csv:target/data/bangkok", (500, 100, 0, 500),
                         dict(network={"kind": "mlp", "hidden": [256, 128]}, epochs=5, batch_size=64,
                              learning_rate=1e-3)),
    ("location", "cpu"): ("csv:target/data/bangkok", (1500, 500, 1000, 2000),
                          dict(network={"kind": "mlp", "hidden": [256, 128]}, epochs=60, batch_size=64,
                               learning_rate=1e-3)),
}
SETS["location", "gpu"] = SETS["location", "cpu"]
for tier in ("ci", "cpu", "gpu"):
    SETS["table1", tier] = SETS["table3", tier]


def rows(table, base, tier="cpu"):
    """The recipes of a table by name: what each changes about the base. At full size they are those of recipes/paper-a, but that
    table 2 has the 100 epochs that its rows can be traced to."""
    if table == "table1":
        cosine = {"schedule": STEPS, "optimizer": SGD, "learning_rate": 0.1}
        return {"densenet": {"network": DENSENET, **cosine}, "resnet18": {"network": RESNET, **cosine}}
    stopping = {"patience": 3 if base["epochs"] < 30 else 10}
    private = {"dp": {"clip": 1.0, "noise_multiplier": 1.0}, "batch_size": 128}
    if tier == "gpu":
        stopping["by"] = "accuracy"
        private |= {"epochs": 200, "optimizer": SGD, "schedule": {"kind": "cosine"}}
    if table == "table3":
        private = {"dp": {"clip": 1.0, "target_epsilon": 4.95}, "batch_size": 64, "optimizer": SGD,
                   "learning_rate": 0.1 if tier == "gpu" else 0.05, "schedule": {"kind": "cosine"}}
    if table == "location":
        private = {"dp": {"clip": 1.0, "target_epsilon": 8.0}, "batch_size": 128}
    smoothing = {"table2": 0.03}.get(table, 0.1)
    return {
        "original": {},
        "early-stopping": {"early_stopping": stopping},
        "l2-5e-4": {"weight_decay": 5e-4},
        "l2-1e-3": {"weight_decay": 1e-3},
        "l2-5e-3": {"weight_decay": 5e-3},
        "regdrop-25": {"weight_decay": 5e-4, "dropout": {"hidden": 0.25}},
        "regdrop-50": {"weight_decay": 5e-4, "dropout": {"hidden": 0.5}},
        "label-smoothing": {"label_smoothing": {"epsilon": smoothing}},
        "dp": private,
        # Of five models each row trains four. A training row is answered by the fifth; other rows by the mean of all
        # (`folds`), or by as few models as a training row is (`folds-alike`: nobody can count the models behind an answer).
        "folds": {},
        "folds-alike": {},
        # The student learns, of the same five models, what the fifth says. (SELENA's paper: 25 and 10.)
        "selena": {},
    }


# What is read out of the measured bank for each row that is answered by several models.
ROUTED = {"folds": "routed", "folds-alike": "routed_alike"}


# Seeds that are looked for when a table is written.
MAX_SEEDS = 9


def toml(value):
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float, str)):
        return json.dumps(value)
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return "{ " + ", ".join(f"{key} = {toml(item)}" for key, item in value.items()) + " }"


def sordino(*arguments, log):
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(["sordino", *arguments], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = pathlib.Path(log).read_text(encoding="utf-8").splitlines()[-3:]
        sys.exit(f"sordino {arguments[0]} failed ({done.returncode}), see {log}:\n" + "\n".join(tail))


def folder_of(table, tier, seed):
    return WORK / tier / table / f"seed{seed}"


def read(path):
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def found(table, tier, name, seed):
    """The record of one model that is done, else None."""
    folder = folder_of(table, tier, seed)
    bank, plan, measured = (read(folder / "selena-bank" / f"{file}.json") for file in ("bank", "plan", "ensemble"))
    if name in ROUTED:
        if not (bank and plan and measured and ROUTED[name] in measured):
            return None
        member = read(folder / "selena-bank" / "model-00000.json")
        return {"recipe": plan["recipe"], "data": plan["data"], "split": {"digest": plan["split"]}, "privacy": None,
                "results": measured[ROUTED[name]], "wall_seconds": bank["train_seconds"], "code": member["code"],
                "machine": member["machine"], "model": {"sha256": bank["digest"]}}
    record = read(folder / f"{name}.json")
    if not record or record["status"]["is"] != "finished":
        return None
    if name == "selena":  # It takes its teachers too.
        record["wall_seconds"] += bank["train_seconds"]
    return record


def train(table, tier, name, change, seed, device):
    """One model, unless its record is there."""
    if found(table, tier, name, seed):
        return
    data, (n_train, n_validation, n_calibration, n_test), base = SETS[table, tier]
    folder = folder_of(table, tier, seed)
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"{name}.onnx"
    split = folder / "rows.split.json"
    if not split.exists():
        sordino("split", "--data", data, "--train", str(n_train), "--validation", str(n_validation),
                "--calibration", str(n_calibration), "--test", str(n_test), "--seed", str(seed),
                "--out", str(split), log=folder / "split.log")
    recipe = {**base, **change}
    if tier == "ci":
        recipe["epochs"] = base["epochs"]
    if table == "table1" and tier != "gpu":
        recipe["epochs"] = 1
    recipe_file = folder / ("original.toml" if name in (*ROUTED, "selena") else f"{name}.toml")
    recipe_file.write_text("".join(f"{key} = {toml(value)}\n" for key, value in recipe.items()), encoding="utf-8")
    source = ["--data", data, "--split", str(split), "--recipe", str(recipe_file), "--seed", str(seed), "--device", device]
    print(f"{table} {tier} seed {seed}: {name}", flush=True)
    if name in ROUTED:
        sordino("ensemble", "train", *source, "--balanced", "5", "--of", "4", "--out", str(folder / "selena-bank"),
                log=folder / "folds.log")
    elif name == "selena":
        sordino("ensemble", "selena", *source, "--models", "5", "--leave-out", "1", "--bank", str(folder / "selena-bank"),
                "--out", str(out), log=folder / f"{name}.log")
    else:
        resume = ["--resume"] if out.with_suffix(".checkpoint").exists() else []
        sordino("train", *source, "--out", str(out), *resume, log=folder / f"{name}.log")


def figures(record):
    results = record["results"]
    attack = results["loss_attack"]
    return (100 * results["train"]["accuracy"], 100 * results["test"]["accuracy"], record["wall_seconds"],
            100 * attack["auc"], 100 * attack["advantage"], results["train"]["n_rows"], results["test"]["n_rows"])


def spread(values, digits=2):
    mean = statistics.fmean(values)
    text = f"{mean:.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def write_table(table, tier, data, runs):
    """`runs`: by name, the records of all seeds."""
    first = next(iter(runs.values()))[0]
    n_members, n_others = figures(first)[5:7]
    any_dirty = any((r.get("code") or {}).get("dirty") for records in runs.values() for r in records)
    commits = sorted({(r.get("code") or {}).get("commit", "unknown")[:12] for records in runs.values() for r in records})
    lines = [
        f"# {table}, tier {tier}", "",
        f"Data `{first['data']['source']}`, {n_members} members, {n_others} non-members that no fit has seen; "
        f"{max(map(len, runs.values()))} seed(s), mean ± standard deviation over seeds. In percent, as the paper: the loss "
        "attack, all rows against all, threshold on the same rows (two-sided). *Gap* is train minus test accuracy: what "
        "the label alone gives away. Runtime on this machine; of the rows with several models, that of all of them.", "",
        f"Commit {', '.join(commits)}{' (changed since)' if any_dirty else ''}; "
        f"{first['machine']['cpu']}, {first['machine']['n_cores']} cores. Made by `just paper-a {table} --tier {tier}`.", "",
        "| row | train | test | gap | AUC | advantage | adv − gap | runtime, s | seeds | *paper*: train | test | gap | AUC "
        "| adv |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, records in runs.items():
        columns = list(zip(*map(figures, records)))
        train_acc, test_acc, seconds, auc, advantage = columns[:5]
        gap = [a - b for a, b in zip(train_acc, test_acc)]
        paper = PAPER[table].get(name)
        shown = [spread(train_acc), spread(test_acc), spread(gap), spread(auc), spread(advantage),
                 spread([a - g for a, g in zip(advantage, gap)]), spread(seconds, 0), str(len(records))]
        shown += [f"{paper[0]}", f"{paper[1]}", f"{paper[0] - paper[1]:.2f}", f"{paper[3]}", f"{paper[4]}"] if paper else \
            ["–"] * 5
        private = records[0].get("privacy")
        label = name if not private else f"{name} (ε = {private['epsilon']:.2f}, δ = {private['delta']:.1e})"
        lines.append(f"| {label} | " + " | ".join(shown) + " |")
    path = HERE / f"{table}-{tier}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    keep = {name: [{"seed": r["recipe"]["seed"], "recipe": r["recipe"], "results": r["results"],
                    "wall_seconds": r["wall_seconds"], "model_sha256": r["model"]["sha256"], "split": r["split"],
                    "tier": tier, "privacy": r.get("privacy"), "code": r.get("code"), "machine": r["machine"], "data": r["data"]["digest"]}
                   for r in records] for name, records in runs.items()}
    path.with_suffix(".json").write_text(json.dumps(keep, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name} and {path.with_suffix('.json').name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(PAPER))
    parser.add_argument("--tier", choices=["ci", "cpu", "gpu"], default="cpu")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 1 on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="names of rows to train, separated by commas")
    parser.add_argument("--write", action="store_true", help="train nothing")
    args = parser.parse_args()
    base = SETS[args.table, args.tier][2]
    wanted = [name for name in args.only.split(",") if name]
    chosen = {name: change for name, change in rows(args.table, base, args.tier).items() if not wanted or name in wanted}
    for seed in range(1, 1 + (0 if args.write else args.seeds)):
        for name, change in chosen.items():
            train(args.table, args.tier, name, change, seed, args.device)
    runs = {name: [record for seed in range(1, MAX_SEEDS + 1) if (record := found(args.table, args.tier, name, seed))]
            for name in rows(args.table, base, args.tier)}
    write_table(args.table, args.tier, SETS[args.table, args.tier][0], {name: own for name, own in runs.items() if own})


if __name__ == "__main__":
    main()
