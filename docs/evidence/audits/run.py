#!/usr/bin/env python3
"""Audits the bundled model and the lab's evidence models, and writes the reports and a summary beside this file.

    run.py [--only NAME,..] [--list]

Needs `sordino` (built with --features lab) on the path. The bundled model needs Debian's dataset-fashion-mnist; the others read
CIFAR-10 as an image folder from target/data/cifar10 and the Location set as CSV from target/data/bangkok. Models are trained where
they are not there yet: those of the paper's tables by ../paper-a/run.py, those of the shadow banks here. A report that is there is
not made again, so that the command may be stopped and started. Reports are made in target/audits; what is below 1 MiB is copied
here; of JSON
without line breaks, the points of curves and maps, predictive values at low rates and more than five figures. Of the audits that are
not in WHOLE the JSON is copied alone, with the attacks that the summary tells about; so is a larger one. Only the standard library is used.
"""

import argparse
import json
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
WORK = pathlib.Path("target/audits")
LIRA = pathlib.Path("target/lira")
CANARIES = pathlib.Path("target/canaries")
MAX_BYTES = 1 << 20
sys.path.insert(0, str(HERE.parent / "paper-a"))
from run import SETS, WORK as PAPER_A, rows, train  # noqa: E402

LOCATION_RECIPE = """epochs = 60
batch_size = 64
learning_rate = 0.001
seed = 7
[network]
kind = "mlp"
hidden = [256, 128]
"""
CIFAR_RECIPE = """epochs = 12
batch_size = 64
learning_rate = 0.001
normalise = "cifar10"
seed = 7
[network]
kind = "cnn"
channels = [32, 64]
hidden = 128
"""
# Name: data, rows of train, validation, calibration and test, shadow models, recipe.
BANKS = {
    "location": ("csv:target/data/bangkok", (1500, 500, 1000, 1500), 64, LOCATION_RECIPE),
    "cifar": ("folder:target/data/cifar10", (2000, 1000, 1000, 2000), 16, CIFAR_RECIPE),
}


# Private models that predict some class for none of its training rows: it has no centroid, so that the paper's defence cannot be
# fitted to them, and they are audited without.
WITHOUT_CENTROIDS = {("location", "dp"), ("table2", "dp")}


def sordino(*arguments, log):
    with open(log, "a", encoding="utf-8") as file:
        done = subprocess.run(["sordino", *map(str, arguments)], stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = pathlib.Path(log).read_text(encoding="utf-8").splitlines()[-3:]
        sys.exit(f"sordino {arguments[0]} failed ({done.returncode}), see {log}:\n" + "\n".join(tail))


def centroids(model, data, split, log, path=None):
    path = path or model.with_suffix(".centroids.safetensors")
    if not path.exists():
        sordino("centroids", "build", "--model", model, "--data", data, "--split", split, "--class-fallback", "correct-rows",
                "--out", path, log=log)
    return path


def of_table(table, row, *more):
    """A row of the paper's tables, seed 1."""

    def options(log):
        data, _, base = SETS[table, "cpu"]
        train(table, "cpu", row, rows(table, base)[row], 1, "cpu")
        folder = PAPER_A / "cpu" / table / "seed1"
        model, split = folder / f"{row}.onnx", folder / "rows.split.json"
        claim = ["--record", model.with_suffix(".json")] if row == "dp" else []
        fitted = [] if (table, row) in WITHOUT_CENTROIDS else ["--centroids", centroids(model, data, split, log)]
        return ["--model", model, *fitted, "--data", data, "--split", split, *claim, *more]

    return options


def with_bank(name, *more):
    """A model with its bank of shadow models, drawn from the same rows by the same recipe."""

    def options(log):
        data, (n_train, n_validation, n_calibration, n_test), n_shadows, recipe = BANKS[name]
        LIRA.mkdir(parents=True, exist_ok=True)
        split, model, bank = LIRA / f"{name}.split.json", LIRA / f"{name}.onnx", LIRA / f"{name}-bank"
        recipe_file = LIRA / f"{name}.toml"
        if not recipe_file.exists():
            recipe_file.write_text(recipe, encoding="utf-8")
        if not split.exists():
            sordino("split", "--data", data, "--train", n_train, "--validation", n_validation, "--calibration", n_calibration,
                    "--test", n_test, "--seed", 7, "--out", split, log=log)
        if not model.exists():
            sordino("train", "--recipe", recipe_file, "--data", data, "--split", split, "--seed", 7, "--out", model, log=log)
        if not (bank / "plan.json").exists():
            sordino("shadows", "plan", "--data", data, "--split", split, "--recipe", recipe_file, "--seed", 11, "--balanced",
                    n_shadows, "--pool", "train,test", "--out", bank, log=log)
        if not (bank / "ready").exists():
            sordino("shadows", "run", bank, "--data", data, log=log)
            (bank / "ready").touch()
        return ["--model", model, "--centroids", centroids(model, data, split, log), "--data", data, "--split", split, "--shadows",
                bank, *more]

    return options


def with_bank_of_others(name, n_shadows, *more):
    """The model of `with_bank`, attacked by shadow models of rows that are not audited: those of the parts validation and
    calibration, and all that were of no part. Each is dealt three in four of them, about as many as the model has."""

    def options(log):
        data, (n_train, n_validation, n_calibration, n_test), _, _ = BANKS[name]
        audited = with_bank(name)(log)
        model, split, bank = LIRA / f"{name}.onnx", LIRA / f"{name}-others.split.json", LIRA / f"{name}-others-bank"
        if not split.exists():
            # The same rows in the first four parts: what is drawn for another part comes behind them.
            sordino("split", "--data", data, "--train", n_train, "--validation", n_validation, "--calibration", n_calibration,
                    "--test", n_test, "--shadow", "rest", "--seed", 7, "--out", split, log=log)
            first, second = (json.loads(pathlib.Path(path).read_text(encoding="utf-8"))["parts"]
                             for path in (audited[audited.index("--split") + 1], split))
            if any(first[part] != second[part] for part in ("train", "validation", "calibration", "test")):
                sys.exit(f"{split} is another split of the rows than the model's")
        if not (bank / "plan.json").exists():
            sordino("shadows", "plan", "--data", data, "--split", split, "--recipe", LIRA / f"{name}.toml", "--seed", 13, "--ensemble",
                    n_shadows, "--share", 0.75, "--pool", "validation,calibration,shadow", "--out", bank, log=log)
        if not (bank / "ready").exists():
            sordino("shadows", "run", bank, "--data", data, log=log)
            (bank / "ready").touch()
        own = centroids(model, data, split, log, LIRA / f"{name}-others.centroids.safetensors")
        return ["--model", model, "--centroids", own, "--data", data, "--split", split, "--shadows", bank, *more]

    return options


def with_canaries(kind, *more):
    """Location's recipe on rows of which 200 are planted, attacked by those and 200 that were withheld."""

    def options(log):
        data, _, base = SETS["location", "cpu"]
        train("location", "cpu", "original", rows("location", base)["original"], 1, "cpu")
        split = PAPER_A / "cpu" / "location" / "seed1" / "rows.split.json"
        CANARIES.mkdir(parents=True, exist_ok=True)
        out, recipe, model = CANARIES / kind, CANARIES / "recipe.toml", CANARIES / f"{kind}.onnx"
        recipe.write_text(LOCATION_RECIPE, encoding="utf-8")
        planted, with_them = f"planted:{out}.json,{data}", CANARIES / f"{kind}.split.json"
        if not with_them.exists():
            sordino("data", "plant", "--data", data, "--split", split, "--kind", kind, "-n", 400, "--seed", 5, "--out", out, log=log)
        if not model.exists():
            sordino("train", "--recipe", recipe, "--data", planted, "--split", with_them, "--out", f"{model.with_suffix('')}-model.onnx",
                    log=log)
            model.with_name(f"{kind}-model.onnx").rename(model)
        return ["--model", model, "--centroids", centroids(model, planted, with_them, log), "--data", planted, "--split", with_them,
                "--canaries", *more]

    return options


ROWS = ["original", "early-stopping", "l2-5e-4", "l2-1e-3", "l2-5e-3", "regdrop-25", "regdrop-50", "label-smoothing", "dp"]
# Audits by shadow models that never saw an audited row, and those of the same model by models of both kinds.
OFFLINE = {"location-offline": "location-lira"}
WHOLE = {"fashion", "location-lira", "location-original", "cifar-original", "cifar-lira"}
AUDITS = {
    "fashion": lambda log: ["--grid", "--analysis"],
    "location-lira": with_bank("location", "--grid", "--analysis"),
    "location-offline": with_bank_of_others("location", 16),
    "location-original": of_table("location", "original", "--grid", "--queries", "--boundary"),
    "cifar-original": of_table("table3", "original", "--grid"),
    "cifar-queries": of_table("table3", "original", "--queries", "--scores-only"),
    "cifar-lira": with_bank("cifar", "--grid", "--augment", "2"),
    **{f"location-{row}": of_table("location", row) for row in [*ROWS[1:], "selena"]},
    **{f"cifar-{row}": of_table("table3", row) for row in [*ROWS[1:], "selena"]},
    **{f"look-alike-{row}": of_table("table2", row) for row in ROWS},
    **{f"canaries-{kind}": with_canaries(kind) for kind in ["mislabelled", "outlier"]},
}


def make(name):
    WORK.mkdir(parents=True, exist_ok=True)
    report, log = WORK / f"{name}.json", WORK / f"{name}.log"
    if not report.exists():
        print(f"audits {name}", flush=True)
        options = AUDITS[name](log)
        sordino("audit", *options, "--quiet", "--json", report, "--html", WORK / f"{name}.html", "--markdown", WORK / f"{name}.md",
                log=log)
    # Five figures are more than any interval here is worth; what is drawn is in the page.
    found = json.loads(report.read_text(encoding="utf-8"), parse_float=lambda word: float(f"{float(word):.5g}"))
    (found["analysis"]["value"] or {}).pop("embedding", None)
    for system in found["findings"]["systems"]:
        if name not in WHOLE:
            names = {attack["attack"]["name"] for attack in system["attacks"]}
            of_shadows = {one for one in names if any(word in one for word in ("LiRA", "RMIA", "calibrated"))}
            kept = told(system) | (of_shadows if name in OFFLINE else set())
            system["attacks"] = [attack for attack in system["attacks"] if attack["attack"]["name"] in kept]
        system["curves"] = []
        for attack in system["attacks"]:
            for at in attack["tpr_at_fpr"]:
                at["predictive_values"] = []
    text = json.dumps(found, separators=(",", ":"), allow_nan=False) + "\n"
    if len(text.encode()) >= MAX_BYTES:
        for system in found["findings"]["systems"]:
            system["attacks"] = [attack for attack in system["attacks"] if attack["attack"]["name"] in told(system)]
        text = json.dumps(found, separators=(",", ":"), allow_nan=False) + "\n"
    files = {f"{name}.json": text}
    if name in WHOLE:
        files |= {path.name: path.read_text(encoding="utf-8") for path in (WORK / f"{name}.html", WORK / f"{name}.md")}
    for file, text in files.items():
        if len(text.encode()) < MAX_BYTES:
            (HERE / file).write_text(text, encoding="utf-8")
        else:
            print(f"{file} is left out: {len(text.encode())} bytes")


def told(system):
    """The attacks of a system that a summary tells about."""
    headline = system["headline"]["value"]
    names = {"loss", "correctness"}
    if headline:
        names |= {headline["fixed_attack"]["name"], headline["widest_attack"]["name"]}
    rate = lambda attack: max((at["tpr"]["value"] or 0 for at in attack["tpr_at_fpr"] if at["target_fpr"] == 0.01), default=0)
    counted = [attack for attack in system["attacks"] if attack["counts"]]
    return names | ({max(counted, key=rate)["attack"]["name"]} if counted else set())


def estimate(value, signed=False):
    form = "{:+.3f}" if signed else "{:.3f}"
    shown = [form.format(value[key] + 0.0) for key in ("value", "low", "high")]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]"


def tpr(system, rate):
    """The most members found at a rate, over the attacks that count."""
    found = [(at["tpr"]["value"], attack["attack"]["name"]) for attack in system["attacks"] if attack["counts"]
             for at in attack["tpr_at_fpr"] if at["target_fpr"] == rate and at["tpr"]["value"] is not None]
    return "n/r" if not found else "{:.3f} ({})".format(*max(found))


def all_of_it(name):
    there = [f"[{ending}]({name}.{ending})" for ending in ("md", "html", "json") if (HERE / f"{name}.{ending}").exists()]
    return f" All of it: {', '.join(there)}." if name in WHOLE else ""


def section(name, report):
    findings, origin = report["findings"], report["origin"]
    undefended = findings["systems"][0]["utility"]
    lines = [f"## {name}", "",
             f"`{origin['data_source']}`, {findings['n_members']} + {findings['n_non_members']} rows, accuracy on members "
             f"{undefended['accuracy_members']:.3f}, on non-members {undefended['accuracy_non_members']:.3f}; commit "
             f"{origin['commit']['value']}, {origin['machine']}.{all_of_it(name)}", "",
             "| system | (b) of the strongest attack | by | minus floor | stands | TPR at 1 % FPR (by) | NLL | ECE |",
             "| --- | ---: | --- | ---: | --- | ---: | ---: | ---: |"]
    for system in findings["systems"]:
        headline, utility = system["headline"]["value"], system["utility"]
        costs = [f"{utility['nll']:.2f}", f"{utility['ece']:.3f}"]
        if headline is None:
            lines.append(f"| {system['name']} | no attack counts | | | | | " + " | ".join(costs) + " |")
            continue
        stands = "the floor" if system["role"] == "floor" else headline["standing"].replace("_", " ")
        lines.append(f"| {system['name']} | {estimate(headline['fixed'])} | {headline['fixed_attack']['name']} | "
                     f"{estimate(headline['fixed_minus_floor'], True)} | {stands} | {tpr(system, 0.01)} | " + " | ".join(costs) + " |")
    lines.append("")
    for bank in findings["leave_one_out"]:
        best = max(bank["study"]["attacks"], key=lambda one: (one["auc"]["value"] or {"mean": 0})["mean"])
        auc, at = best["auc"]["value"], best["tpr_at_fpr"][0]["tpr"]["value"]
        if auc:
            found = "" if not at else f", TPR at 1 % FPR {at['mean']:.3f} [{at['low']:.3f}, {at['high']:.3f}]"
            lines.append(f"- Over {bank['study']['n_targets']} trainings, {bank['system']}: {best['attack']['name']}, AUC "
                         f"{auc['mean']:.3f} [{auc['low']:.3f}, {auc['high']:.3f}]{found}.")
    if findings["leave_one_out"]:
        lines.append("")
    if report["analysis"]["value"]:
        lines += [report["analysis"]["value"]["finding"], ""]
    claim = findings["systems"][0]["epsilon"]["claim"]["value"]
    if claim:
        epsilon = findings["systems"][0]["epsilon"]
        lines += [f"The run claims ε = {claim['epsilon']:.2f}; the strongest attack shows at least {epsilon['lower_bound']:.2f}, and "
                  f"on so many rows could have shown {epsilon['ceiling']:.2f} at most.", ""]
    return lines


def versus(name, report):
    """The same model and rows under an attacker with models of both kinds."""
    if name not in OFFLINE or not (HERE / f"{OFFLINE[name]}.json").exists():
        return []
    other = json.loads((HERE / f"{OFFLINE[name]}.json").read_text(encoding="utf-8"))
    of_bank, trainings = report["findings"]["shadow_models"], other["findings"]["leave_one_out"][0]["study"]["n_models"]
    there = {system["name"]: system for system in other["findings"]["systems"]}
    assert of_bank["n_both"] == 0, "a bank that saw audited rows"
    auc = {one["attack"]["name"]: one["auc"]["value"] for one in report["findings"]["systems"][0]["attacks"]}
    one_sided = ", ".join(f"{auc[f'LiRA offline, one-sided, {spread}']:.3f} ({spread})" for spread in ("fixed variance", "variance per row"))
    lines = [f"None of the attacker's {of_bank['n_models']} shadow models was trained on an audited row: each was dealt three in four of the other "
             f"rows, those on which the temperature was fitted among them. Each of the {trainings} of {OFFLINE[name]} was trained on half of the "
             "audited rows, and so on half of the rows that the model itself was trained on. The same model, and the same rows judged:", "",
             f"| system | {OFFLINE[name]}: (b) | by | TPR at 1 % FPR | {name}: (b) | by | TPR at 1 % FPR |",
             "| --- | ---: | --- | ---: | ---: | --- | ---: |"]
    for system in report["findings"]["systems"]:
        pair = [there.get(system["name"]), system]
        if all(one and one["headline"]["value"] for one in pair):
            cells = [f"{estimate(one['headline']['value']['fixed'])} | {one['headline']['value']['fixed_attack']['name']} | {tpr(one, 0.01)}"
                     for one in pair]
            lines.append(f"| {system['name']} | {' | '.join(cells)} |")
    return [*lines, "", f"LiRA offline, one-sided, reaches an AUC of {one_sided} on the undefended model.", ""]


def summary():
    lines = ["# Audits in a table each", "",
             "Made by `just audits` (run.py). (b): TPR − FPR of the strongest attack that counts, chosen with its threshold and sign on "
             "other rows; minus floor: the same rows, less what the label alone gives away, paired. *TPR at 1 % FPR*: the largest over "
             "the attacks that count (picked: biased upward). NLL and ECE are of non-members. 95 % intervals over rows of one model.", ""]
    for name in AUDITS:
        path = HERE / f"{name}.json"
        if path.exists():
            report = json.loads(path.read_text(encoding="utf-8"))
            lines += section(name, report) + versus(name, report)
    (HERE / "README.md").write_text("\n".join(lines).rstrip() + "\n", encoding="utf-8")
    print("wrote README.md")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of audits, separated by commas")
    parser.add_argument("--list", action="store_true", help="name the audits and stop")
    args = parser.parse_args()
    if args.list:
        sys.exit("\n".join(AUDITS))
    wanted = [name for name in args.only.split(",") if name]
    unknown = [name for name in wanted if name not in AUDITS]
    if unknown:
        sys.exit(f"no such audit: {', '.join(unknown)}; there are: {', '.join(AUDITS)}")
    for name in wanted or AUDITS:
        make(name)
    summary()


if __name__ == "__main__":
    main()
