"""TF-Privacy's attacks on a file of answers, beside this project's.

    python -m venv venv && venv/bin/pip install scikit-learn scipy pandas absl-py matplotlib immutabledict statsmodels
    venv/bin/pip install --no-deps --target tfp tensorflow-privacy==0.8.12
    cargo bench --bench audit -- FOLDER
    venv/bin/python docs/evidence/side-by-side/tf_privacy.py FOLDER tfp FOLDER/tf_privacy.json

FOLDER holds what the bench wrote: `answers.f64` (rows x classes), `labels.u32`, `memberships.u8`, `classes`, and
`sordino.tsv` with this project's figures. TF-Privacy's attacks are numpy and scikit-learn: their modules are imported as
they come from PyPI, without the package's own __init__, which would ask for TensorFlow. One name that scikit-learn has
moved since is put back. The threshold attack must agree within 1e-9, or the script exits with 1.
"""

import json
import sys
import time
import types
from pathlib import Path

import joblib
import numpy as np
import sklearn
import sklearn.utils
from sklearn.metrics import roc_auc_score, roc_curve

AGREE = 1e-9
MIA = "tensorflow_privacy.privacy.privacy_tests.membership_inference_attack"
LEARNED = ["LOGISTIC_REGRESSION", "MULTI_LAYERED_PERCEPTRON"]


def imported(package):
    """TF-Privacy's module of attacks and its data structures, from a folder."""
    sklearn.utils.parallel_backend = joblib.parallel_backend
    parts = MIA.split(".")
    for n in range(1, len(parts) + 1):
        module = types.ModuleType(".".join(parts[:n]))
        module.__path__ = [str(Path(package, *parts[:n]))]
        sys.modules[module.__name__] = module
    attacks = __import__(f"{MIA}.membership_inference_attack", fromlist=["x"])
    return attacks, __import__(f"{MIA}.data_structures", fromlist=["x"])


def main(folder, package, out, kinds):
    folder = Path(folder)
    n_classes = int((folder / "classes").read_text())
    p = np.fromfile(folder / "answers.f64").reshape(-1, n_classes)
    y = np.fromfile(folder / "labels.u32", dtype=np.uint32).astype(int)
    m = np.fromfile(folder / "memberships.u8", dtype=np.uint8).astype(bool)
    ours = {}
    for line in (folder / "sordino.tsv").read_text().splitlines():
        name, auc, advantage, rows = line.split("\t")
        ours.setdefault(rows, {})[name] = (float(auc), float(advantage))
    loss = -np.log(p[np.arange(len(y)), y])
    attacks, data = imported(package)
    found = {}
    for kind in kinds:
        given = data.AttackInputData(
            logits_train=np.log(p[m]), logits_test=np.log(p[~m]), labels_train=y[m], labels_test=y[~m],
            loss_train=loss[m], loss_test=loss[~m])
        np.random.seed(1)
        start = time.time()
        result = attacks.run_attacks(given, data.SlicingSpec(), attack_types=[getattr(data.AttackType, kind)])
        result = result.single_attack_results[0]
        found[kind] = {"auc": float(result.get_auc()), "advantage": float(result.get_attacker_advantage()),
                       "seconds": round(time.time() - start, 2)}
        print(kind, found[kind], flush=True)
    fpr, tpr, _ = roc_curve(m, -loss, drop_intermediate=False)
    found["roc_curve of scikit-learn, loss"] = {
        "auc": float(roc_auc_score(m, -loss)), "advantage": float(np.max(np.abs(tpr - fpr)))}
    agreed = True
    for kind, name in [("THRESHOLD_ATTACK", "loss"), ("THRESHOLD_ENTROPY_ATTACK", "modified entropy"),
                       ("roc_curve of scikit-learn, loss", "loss")]:
        if kind not in found:
            continue
        auc, advantage = ours["all rows"][name]
        apart = max(abs(auc - found[kind]["auc"]), abs(advantage - found[kind]["advantage"]))
        found[kind]["apart_from_sordino"] = apart
        agreed &= apart <= AGREE or kind == "THRESHOLD_ENTROPY_ATTACK"
        print(f"{kind}: {apart:.3g} apart from this project's {name} attack")
    record = {"python": sys.version.split()[0], "numpy": np.__version__, "scikit-learn": sklearn.__version__,
              "tensorflow-privacy": "0.8.12", "n_rows": len(y), "tf_privacy": found, "sordino": ours}
    Path(out).write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(0 if agreed else 1)


if __name__ == "__main__":
    main(*sys.argv[1:4], ["THRESHOLD_ATTACK", "THRESHOLD_ENTROPY_ATTACK", *LEARNED])
