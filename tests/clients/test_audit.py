"""The audit from outside: the published schema, exit codes of a policy, refused outputs, a live endpoint."""

import json
import math
import random
import subprocess

import jsonschema
import pytest
from conftest import BINARY, ROOT

QUICK = ["--permutations", "20", "--bootstrap", "100", "--quiet"]
PATIENCE = 300


def audit(*arguments):
    command = [BINARY, "audit", *map(str, arguments), *QUICK]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)


def softmax(z):
    top = max(z)
    e = [math.exp(v - top) for v in z]
    return [v / sum(e) for v in e]


@pytest.fixture(scope="module")
def predictions(tmp_path_factory):
    """300 members that are answered surely, 300 non-members that are not, 60 calibration rows."""
    rng = random.Random(4)
    lines = ["row,label,member,logit_0,logit_1,logit_2"]
    for row in range(660):
        side = 0 if row < 300 else 1 if row < 600 else 2
        label = rng.randrange(3)
        shown = label if side == 1 or rng.random() < 0.7 else (label + 1) % 3
        z = [rng.uniform(-1, 1) for _ in range(3)]
        z[shown] += 5 if side == 1 else 2
        lines.append(f"{row},{label},{side},{','.join(map(str, z))}")
    path = tmp_path_factory.mktemp("audit") / "predictions.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_report_follows_the_published_schema(predictions, tmp_path):
    schema = json.loads((ROOT / "docs/schemas/audit-3.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    check.check_schema(schema)
    policy = tmp_path / "policy.toml"
    policy.write_text("max_ece = 0.9\n")
    for scores_of in ("served", "undefended"):
        report = tmp_path / f"{scores_of}.json"
        judged = 'systems = ["label-only"]\n'
        policy.write_text("max_ece = 0.9\n" + judged)
        done = audit("--predictions", predictions, "--scores-of", scores_of, "--json", report, "--analysis", "--policy", policy)
        assert done.returncode in (0, 3, 4), done.stderr
        found = json.loads(report.read_text(), parse_constant=lambda word: pytest.fail(word))
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in check.iter_errors(found)]
        assert not errors, errors[:5]


def test_the_exit_code_says_how_the_policy_stands(predictions, tmp_path):
    policy = tmp_path / "policy.toml"
    for text, code, word in [
        ("max_advantage = 1.0\n", 0, "held"),
        ("max_advantage = 0.01\n", 3, "VIOLATED"),
        ("tpr_at_fpr = [{ fpr = 0.0001, max = 0.5 }]\n", 4, "not resolvable"),
    ]:
        policy.write_text(text)
        done = audit("--predictions", predictions, "--policy", policy)
        assert done.returncode == code and word in done.stdout, (done.returncode, done.stderr)
    policy.write_text("max_auc = 0.5\n")
    done = audit("--predictions", predictions, "--policy", policy)
    assert done.returncode == 1 and "max_auc" in done.stderr


def test_an_output_that_is_an_input_is_refused(predictions, tmp_path):
    before = predictions.read_bytes()
    for option in ("--json", "--markdown", "--html", "--csv"):
        done = audit("--predictions", predictions, option, predictions)
        assert done.returncode == 1 and f"{option}: {predictions} is an input" in done.stderr, done.stderr
    assert predictions.read_bytes() == before
    both = tmp_path / "out"
    done = audit("--predictions", predictions, "--json", both, "--html", both)
    assert done.returncode == 1 and "is what --json writes" in done.stderr


def test_a_page_and_a_table_of_records_are_written(predictions, tmp_path):
    page, table = tmp_path / "report.html", tmp_path / "records.csv"
    done = audit("--predictions", predictions, "--html", page, "--csv", table)
    assert done.returncode == 0, done.stderr
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>") and "NaN" not in text and "http" not in text
    assert len(table.read_text().splitlines()) == 601


def test_our_own_server_is_audited_by_its_url(own_model, tmp_path):
    from conftest import Sordino

    server = Sordino("--config", own_model / "sordino.toml")
    metadata = server.metadata()
    width = math.prod(metadata["inputs"][0]["shape"][1:])
    n_classes = metadata["outputs"][0]["shape"][1]
    if len(metadata["inputs"][0]["shape"]) != 2:
        pytest.skip("the model takes no rows of a table")
    rng = random.Random(1)
    rows = tmp_path / "rows.csv"
    line = lambda n: ",".join([str(n % n_classes), *(f"{rng.uniform(-1, 1):.4f}" for _ in range(width))])
    rows.write_text("\n".join(line(n) for n in range(120)) + "\n")
    (tmp_path / "members").write_text("\n".join(map(str, range(60))))
    (tmp_path / "others").write_text("\n".join(map(str, range(60, 120))))
    report = tmp_path / "report.json"
    arguments = ["--endpoint", f"{server.url}/v2/models/{server.name}", "--data", f"csv:{rows}",
                 "--members", tmp_path / "members", "--non-members", tmp_path / "others", "--json", report]
    done = audit(*arguments)
    assert done.returncode == 0, done.stderr
    source = json.loads(report.read_text())["origin"]["source"]
    assert (source["kind"], source["n_asked"], source["n_kept"]) == ("endpoint", 120, 0)
    server.stop()
    # All answers are kept: only the metadata is asked for again, and a server that is gone cannot give it.
    done = audit(*arguments)
    assert done.returncode == 1 and "connect" in done.stderr
