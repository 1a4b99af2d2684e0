#!/usr/bin/env python3
"""The grid of the CS2980 report (its table 1), done honestly: {dropout} x {label smoothing} x {top-3 masking} on the
network of ML-Leaks and CIFAR-10, adversary 1 fitted on the shadow model and judged on the target.

    run.py [--tier ci|cpu|gpu] [--seeds 1] [--device cpu] [--train-only]

Four disjoint slices: the target's members and non-members, the shadow's members and non-members. Masking needs no
training: both models stand behind the same mask, members and non-members alike, so each of the four trainings gives
two rows. The attack model is never smoothed. Tiers: `ci` takes a minute and proves that it runs, `cpu` is what two cores
do in half an hour, `gpu` has the report's sizes. A training whose record is there is not done again, so that the command
may be stopped and started.

Needs `sordino` (built with --features lab) on the path and CIFAR-10 as an image folder in target/data/cifar10. Only the
standard library is used. Models and reports go to target/paper-b, the table to docs/evidence/paper-b.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("target/paper-b")
DATA = "folder:target/data/cifar10"

# Rows of each slice, epochs, calibration rows.
TIERS = {"ci": (300, 1, 60), "cpu": (2500, 12, 500), "gpu": (10520, 50, 2000)}

# The report's table 1: target accuracy, attack accuracy, balanced accuracy, recall of members, of non-members.
REPORT = {
    ("none", False): (0.60, 0.82, 0.83, 1.00, 0.65),
    ("dropout", False): (0.49, 0.51, 0.51, 0.69, 0.33),
    ("smoothing", False): (0.60, 0.72, 0.73, 1.00, 0.61),
    ("none", True): (0.59, 0.80, 0.81, 1.00, 0.45),
    ("dropout-smoothing", False): (0.60, 0.73, 0.73, 1.00, 0.46),
    ("dropout", True): (0.58, 0.81, 0.81, 1.00, 0.62),
    ("smoothing", True): (0.60, 0.74, 0.74, 1.00, 0.48),
    ("dropout-smoothing", True): (0.60, 0.73, 0.73, 1.00, 0.46),
}
TRAININGS = ["none", "dropout", "smoothing", "dropout-smoothing"]
ADVERSARY = "ML-Leaks adversary 1, softmax on top 3"
NETWORK = "ML-Leaks adversary 1, network on top 3"
MASK = '[defence]\nmethod = "as-is"\ntop_k = 3\n'


def sordino(*arguments, log, accept=(0,)):
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(["sordino", *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode not in accept:
        tail = pathlib.Path(log).read_text(encoding="utf-8").splitlines()[-3:]
        sys.exit(f"sordino {arguments[0]} failed ({done.returncode}), see {log}:\n" + "\n".join(tail))


def slices(folder, tier, seed):
    """The split of the target and that of its shadow: disjoint, of one draw."""
    n_rows, _, n_calibration = TIERS[tier]
    target, shadow = folder / "target.split.json", folder / "shadow.split.json"
    if not shadow.exists():
        sordino("split", "--data", DATA, "--train", n_rows, "--test", n_rows, "--calibration", n_calibration,
                "--shadow", 2 * n_rows, "--seed", seed, "--out", target, log=folder / "split.log")
        split = json.loads(target.read_text())
        rows = split["parts"]["shadow"]
        split["parts"] = {**{part: [] for part in split["parts"]}, "train": rows[:n_rows], "test": rows[n_rows:]}
        shadow.write_text(json.dumps(split))
    return target, shadow


def train(folder, tier, name, role, split, seed, device):
    out = folder / f"{name}-{role}.onnx"
    record = out.with_suffix(".json")
    if not (record.exists() and json.loads(record.read_text())["status"]["is"] == "finished"):
        resume = ["--resume"] if out.with_suffix(".checkpoint").exists() else []
        print(f"{tier} seed {seed}: {name}, {role}", flush=True)
        sordino("train", "--recipe", f"cs2980/{name}", "--epochs", TIERS[tier][1], "--data", DATA, "--split", split,
                "--seed", 2 * seed + (role == "shadow"), "--device", device, "--out", out, *resume,
                log=folder / f"{name}-{role}.log")
    return json.loads(record.read_text())


def audit(folder, name, target, shadow, seed):
    report = folder / f"{name}.audit.json"
    if not report.exists():
        mask = folder / "top3.toml"
        mask.write_text(MASK)
        sordino("audit", "--model", folder / f"{name}-target.onnx", "--data", DATA, "--split", target,
                "--shadow-model", folder / f"{name}-shadow.onnx", "--shadow-split", shadow, "--defence", mask,
                "--seed", seed, "--json", report, "--quiet", log=folder / f"{name}.audit.log")
    return json.loads(report.read_text())


def row(report, masked):
    """What one cell of the grid shows."""
    found = report["findings"]
    role = "served" if masked else "undefended"
    [system] = [one for one in found["systems"] if one["role"] == role and (not masked or "as-is" in one["name"])]
    of = {one["attack"]["name"]: one for one in system["attacks"]}
    calls, network, loss = of[ADVERSARY]["calls"], of[NETWORK]["calls"], of["loss"]
    headline = system["headline"]["value"]
    at = next(one for one in of[ADVERSARY]["tpr_at_fpr"] if one["target_fpr"] == 0.01)
    utility = system["utility"]
    return {
        "target": utility["accuracy_non_members"], "train": utility["accuracy_members"],
        "balanced": calls["balanced_accuracy"]["value"],
        "interval": (calls["balanced_accuracy"]["low"], calls["balanced_accuracy"]["high"]),
        "recall1": calls["recall_members"]["value"], "recall0": calls["recall_non_members"]["value"],
        "auc": of[ADVERSARY]["auc"]["value"], "tpr": at["tpr"]["value"], "network": network["balanced_accuracy"]["value"],
        "counts": of[ADVERSARY]["counts"],
        "gap": 0.5 + (utility["accuracy_members"] - utility["accuracy_non_members"]) / 2,
        "loss": loss["calls"]["balanced_accuracy"]["value"],
        "strongest": headline and 0.5 + headline["fixed"]["value"] / 2,
        "strongest_attack": headline and headline["fixed_attack"]["name"],
    }


def mean(values, digits=3):
    values = [value for value in values if value is not None]
    if not values:
        return "–"
    text = f"{statistics.fmean(values):.{digits}f}"
    return f"{text} ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else text


def write_table(tier, runs, records):
    n_rows, epochs, _ = TIERS[tier]
    first = next(iter(records.values()))[0][0]
    commits = sorted({(r.get("code") or {}).get("commit", "unknown")[:12] for pairs in records.values() for p in pairs for r in p})
    audits = sorted({(report["origin"]["commit"]["value"] or "unknown")[:12] for reports in runs.values() for report in reports})
    n_seeds = max(map(len, runs.values()))
    lines = [
        f"# The CS2980 grid, tier {tier}", "",
        f"CIFAR-10 (`{DATA}`), ML-Leaks' network (176,938 parameters), {n_rows:,} rows in each of four slices, {epochs} epochs, "
        f"{n_seeds} seed(s). Adversary 1: softmax regression on the three largest entries, fitted on the shadow model, judged "
        f"on half of the target's members and non-members (the other half fixes the thresholds of the other attacks). "
        "*Balanced* is its balanced accuracy (= accuracy: the sides are of one size) in each seed, with a 95 % interval over rows; ° where it "
        "does not count, since it finds nothing on the undefended model. The rest are means over seeds ± standard deviation.", "",
        f"Trained by commit {', '.join(commits)}, audited by {', '.join(audits)}; {first['machine']['cpu']}, "
        f"{first['machine']['n_cores']} cores. Made by `just paper-b table1 --tier {tier}`.", "",
        "| training | mask | target acc | shadow acc | balanced | recall, members | recall, others | AUC | TPR @ 1 % | network of 64 "
        "| gap alone | loss | strongest | *report*: target acc | attack acc | balanced | recall 1 | recall 0 |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in TRAININGS:
        for masked in (False, True):
            rows = [row(report, masked) for report in runs[name]]
            shadow = mean([pair[1]["results"]["test"]["accuracy"] for pair in records[name]])
            names = dict.fromkeys(one["strongest_attack"] or "none counts" for one in rows)
            best = f"{mean([one['strongest'] for one in rows])} ({'; '.join(names)})"
            # A seed's own interval: an average of ends would be nobody's.
            balanced = ", ".join("{:.3f}{} [{:.3f}, {:.3f}]".format(one["balanced"], "" if one["counts"] else "°", *one["interval"]) for one in rows)
            shown = [mean([one["target"] for one in rows]), shadow, balanced]
            shown += [mean([one[key] for one in rows]) for key in ("recall1", "recall0", "auc", "tpr", "network", "gap", "loss")]
            shown += [best] + [f"{value:.2f}" for value in REPORT[name, masked]]
            lines.append(f"| {name} | {'top 3' if masked else '–'} | " + " | ".join(shown) + " |")
    path = HERE / f"table1-{tier}.md"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    keep = {name: [{"masked": masked, **row(report, masked), "report_origin": report["origin"], "training": [
                {"recipe": r["recipe"], "results": r["results"], "model_sha256": r["model"]["sha256"], "wall_seconds": r["wall_seconds"]}
                for r in pair]}
                for report, pair in zip(runs[name], records[name]) for masked in (False, True)] for name in TRAININGS}
    path.with_suffix(".json").write_text(json.dumps(keep, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {path.name} and {path.with_suffix('.json').name}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", nargs="?", default="table1", choices=["table1"])
    parser.add_argument("--tier", choices=sorted(TIERS), default="cpu")
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds, from 1 on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--train-only", action="store_true", help="train, and do not attack")
    args = parser.parse_args()
    os.environ.setdefault("RAYON_NUM_THREADS", "2")
    runs, records = {}, {}
    for seed in range(1, args.seeds + 1):
        folder = WORK / args.tier / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        target, shadow = slices(folder, args.tier, seed)
        for name in TRAININGS:
            pair = [train(folder, args.tier, name, role, split, seed, args.device)
                    for role, split in (("target", target), ("shadow", shadow))]
            records.setdefault(name, []).append(pair)
            if not args.train_only:
                runs.setdefault(name, []).append(audit(folder, name, target, shadow, seed))
    if not args.train_only:
        write_table(args.tier, runs, records)


if __name__ == "__main__":
    main()
