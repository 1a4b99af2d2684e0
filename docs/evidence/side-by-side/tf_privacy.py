r"""TF-Privacy's attacks on a file of answers, beside this project's.

    python -m venv venv
    venv/bin/pip install scikit-learn==1.2.2 'numpy<2' 'scipy<1.12' 'pandas<2.2' 'matplotlib<3.9' \
        absl-py immutabledict statsmodels
    venv/bin/pip install --no-deps --target tfp tensorflow-privacy==0.8.12
    cargo bench --bench audit -- FOLDER
    venv/bin/python docs/evidence/side-by-side/tf_privacy.py FOLDER tfp FOLDER/tf_privacy.json [KIND ...]

Kinds of attack are run one after the other and written as each is done; kinds that a file of before holds and that are not
named stay in it. Intervals of an AUC are DeLong's at 95 %, over rows. For attacks that take hours on all rows:

    venv/bin/python docs/evidence/side-by-side/tf_privacy.py cut FOLDER 2000 SMALL
    sordino audit --predictions SMALL/answers.npz --json SMALL/audit.json
    venv/bin/python docs/evidence/side-by-side/tf_privacy.py SMALL tfp SMALL/tf_privacy.json

where `cut` takes the first so many rows of each side. `audit.json`, where it is there, has this project's figures of the verdict
rows with intervals, and `sordino.tsv` is not needed.

FOLDER holds what the bench wrote: `answers.f64` (rows x classes), `labels.u32`, `memberships.u8`, `classes`, and
`sordino.tsv` with this project's figures. TF-Privacy's attacks are numpy and scikit-learn: their modules are imported as
they come from PyPI, without the package's own __init__, which would ask for TensorFlow. They use names that scikit-learn
has moved since, hence its version. The threshold attack must agree within 1e-9, or the script exits with 1.
"""

import json
import sys
import time
import types
from pathlib import Path

import numpy as np
import sklearn
from scipy.stats import rankdata
from sklearn.metrics import roc_auc_score, roc_curve

AGREE = 1e-9
MIA = "tensorflow_privacy.privacy.privacy_tests.membership_inference_attack"
LEARNED = ["LOGISTIC_REGRESSION", "K_NEAREST_NEIGHBORS", "RANDOM_FOREST", "MULTI_LAYERED_PERCEPTRON"]
THRESHOLDS = ["THRESHOLD_ATTACK", "THRESHOLD_ENTROPY_ATTACK"]


def imported(package):
    """TF-Privacy's module of attacks and its data structures, from a folder."""
    parts = MIA.split(".")
    for n in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:n]))
        module.__path__ = [str(Path(package, *parts[:n]))]
        sys.modules[module.__name__] = module
    attacks = __import__(f"{MIA}.membership_inference_attack", fromlist=["x"])
    return attacks, __import__(f"{MIA}.data_structures", fromlist=["x"])


def delong(members, others):
    """An AUC and its interval at 95 %."""
    below = rankdata(np.concatenate([members, others]))
    above = below[: len(members)] - rankdata(members), below[len(members) :] - rankdata(others)
    auc = float(above[0].mean() / len(others))
    variance = (above[0] / len(others)).var(ddof=1) / len(members) + (above[1] / len(members)).var(ddof=1) / len(others)
    half = 1.959964 * variance**0.5
    return auc, [auc - half, auc + half]


def read(folder):
    """Answers, labels and memberships."""
    n_classes = int((folder / "classes").read_text())
    p = np.fromfile(folder / "answers.f64").reshape(-1, n_classes)
    y = np.fromfile(folder / "labels.u32", dtype=np.uint32).astype(int)
    return p, y, np.fromfile(folder / "memberships.u8", dtype=np.uint8).astype(bool)


def cut(folder, n, into):
    """The first `n` rows of each side as a folder of their own, with the file that `sordino audit` reads."""
    p, y, m = read(Path(folder))
    rows = np.concatenate([np.flatnonzero(m)[: int(n)], np.flatnonzero(~m)[: int(n)]])
    into = Path(into)
    into.mkdir(parents=True, exist_ok=True)
    p[rows].tofile(into / "answers.f64")
    y[rows].astype(np.uint32).tofile(into / "labels.u32")
    m[rows].astype(np.uint8).tofile(into / "memberships.u8")
    (into / "classes").write_text(str(p.shape[1]))
    np.savez(into / "answers.npz", probabilities=p[rows], label=y[rows].astype(float), member=m[rows].astype(float))


def found_by_sordino(folder):
    """AUC, advantage and, where they are told, the interval of each attack by the rows that it was judged on."""
    ours = {}
    if (folder / "sordino.tsv").exists():
        for line in (folder / "sordino.tsv").read_text().splitlines():
            name, auc, advantage, rows = line.split("\t")
            ours.setdefault(rows, {})[name] = (float(auc), float(advantage))
    if (folder / "audit.json").exists():
        findings = json.loads((folder / "audit.json").read_text())["findings"]
        judged = next(one for one in findings["systems"] if one["role"] == "served")
        ours["verdict rows"] = {}
        for one in judged["attacks"]:
            auc = one["auc"]
            ours["verdict rows"][one["attack"]["name"]] = (auc["value"], one["widest"], auc["low"], auc["high"])
        before = next(one for one in findings["before_and_after"] if one["system"] == judged["name"])
        ours.setdefault("all rows", {})["loss"] = (before["auc"], before["advantage"])
    return ours


def main(folder, package, out, kinds):
    folder = Path(folder)
    p, y, m = read(folder)
    ours = found_by_sordino(folder)
    loss = -np.log(p[np.arange(len(y)), y])
    attacks, data = imported(package)
    out = Path(out)
    found = json.loads(out.read_text())["tf_privacy"] if out.exists() else {}
    record = {"python": sys.version.split()[0], "numpy": np.__version__, "scikit-learn": sklearn.__version__,
              "tensorflow-privacy": "0.8.12", "n_rows": len(y), "tf_privacy": found, "sordino": ours}
    for kind in kinds:
        given = data.AttackInputData(
            logits_train=np.log(p[m]), logits_test=np.log(p[~m]), labels_train=y[m], labels_test=y[~m],
            loss_train=loss[m], loss_test=loss[~m])
        np.random.seed(1)
        start = time.time()
        result = attacks.run_attacks(given, data.SlicingSpec(), attack_types=[getattr(data.AttackType, kind)])
        result = result.single_attack_results[0]
        seconds = round(time.time() - start, 2)
        _, interval = delong(result.membership_scores_train, result.membership_scores_test)
        found[kind] = {"auc": float(result.get_auc()), "interval": interval,
                       "advantage": float(result.get_attacker_advantage()), "seconds": seconds}
        print(kind, found[kind], flush=True)
        out.write_text(json.dumps(record, indent=1) + "\n")
    fpr, tpr, _ = roc_curve(m, -loss, drop_intermediate=False)
    found["roc_curve of scikit-learn, loss"] = {
        "auc": float(roc_auc_score(m, -loss)), "advantage": float(np.max(np.abs(tpr - fpr)))}
    agreed = True
    for kind, name in [("THRESHOLD_ATTACK", "loss"), ("THRESHOLD_ENTROPY_ATTACK", "modified entropy"),
                       ("roc_curve of scikit-learn, loss", "loss")]:
        if kind not in found or name not in ours["all rows"]:
            continue
        auc, advantage, *_ = ours["all rows"][name]
        apart = max(abs(auc - found[kind]["auc"]), abs(advantage - found[kind]["advantage"]))
        found[kind]["apart_from_sordino"] = apart
        agreed &= apart <= AGREE or kind == "THRESHOLD_ENTROPY_ATTACK"
        print(f"{kind}: {apart:.3g} apart from this project's {name} attack")
    out.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["cut"]:
        cut(*sys.argv[2:5])
    else:
        main(*sys.argv[1:4], sys.argv[4:] or [*THRESHOLDS, *LEARNED])
