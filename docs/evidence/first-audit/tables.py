"""Prints the tables of ../first-audit.md from the reports in this folder (standard library only)."""

import json
from pathlib import Path

HERE = Path(__file__).parent
SETS = [("Fashion-MNIST", "fashion"), ("CIFAR-10", "cifar_cnn"), ("Location", "location_mlp")]
REPORTS = {name: json.loads((HERE / f"{stem}.json").read_text())["findings"] for name, stem in SETS}


def short(value, signed=False):
    text = f"{abs(value):.3f}".removeprefix("0")
    sign = "−" if value < 0 and float(text) != 0 else "+" if signed else ""
    return sign + text


def interval(value, signed=False):
    inside = ", ".join(short(value[end], signed) for end in ("low", "high"))
    return f"{short(value['value'], signed)} [{inside}]"


def system(findings, name):
    return next(row for row in findings["systems"] if row["name"] == name)


print("| model | stage | train acc | test acc | overhead, s for all rows | AUC | advantage | gap |")
print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
for name, findings in REPORTS.items():
    for row in findings["before_and_after"]:
        stages = {"undefended": "before", "reweight w=0.1": "after", "reweight w=0.1 + top-3": "after, with top-3"}
        if row["system"] not in stages:
            continue
        first = name if row["system"] == "undefended" else ""
        overhead = "0" if not first == "" else f"{row['overhead_seconds']:.4f} ({row['n_rows']:,} rows)"
        percents = [f"{100 * row[key]:.2f}" for key in ("train_accuracy", "test_accuracy")]
        measures = [f"{100 * row[key]:.2f}" for key in ("auc", "advantage", "gap")]
        print("|", " | ".join([first, stages[row["system"]], *percents, overhead, *measures]), "|")

print("\n| system |", " | ".join(REPORTS), "|\n| --- | ---: | ---: | ---: |")
for row in REPORTS["Fashion-MNIST"]["systems"]:
    cells = []
    for findings in REPORTS.values():
        headline = system(findings, row["name"])["headline"]["value"]
        fixed, floor = interval(headline["fixed"]), headline.get("fixed_minus_floor")
        if row["name"] == "label-only":
            cells.append(f"{fixed}, the floor")
        else:
            where = headline["standing"].replace("_", " ").removesuffix(" floor")
            cells.append(f"{fixed}, minus floor {interval(floor, signed=True)}: {where}")
    print("|", row["name"], "|", " | ".join(cells), "|")

print("\n| system |", " | ".join(REPORTS), "|\n| --- | ---: | ---: | ---: |")
for row in REPORTS["Fashion-MNIST"]["systems"]:
    utilities = [system(findings, row["name"])["utility"] for findings in REPORTS.values()]
    cells = [f"NLL {u['nll']:.2f}, ECE {short(u['ece'])}" for u in utilities]
    print("|", row["name"], "|", " | ".join(cells), "|")
