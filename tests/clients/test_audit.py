"""The audit from outside: the published schema, exit codes of a policy, refused outputs, a live endpoint."""

import json
import math
import random
import subprocess
import time

import jsonschema
import numpy as np
import onnx
import pytest
from conftest import BINARY, ROOT
from onnx import TensorProto, helper, numpy_helper

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


def test_a_report_of_the_three_adversaries_follows_the_published_schema(planted, tmp_path):
    """Random points and a shadow of other data: rows of another width, whose model knows the first forty by heart."""
    rows, folder = np.eye(40, dtype=np.float32).repeat(2, axis=0), tmp_path
    labels = np.arange(80) % 3
    data = write_rows(folder / "other.csv", rows, labels)
    weight = np.zeros((40, 3), np.float32)
    weight[np.arange(40), labels[:80:2]] = np.where(np.arange(40) < 20, 9, 0.5)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["logits"])], "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 40])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, folder / "other.onnx")
    split = [BINARY, "split", "--data", f"csv:{data}", "--train", "40", "--test", "40", "--out", str(folder / "other.split.json")]
    assert subprocess.run(split, capture_output=True).returncode == 0
    report = tmp_path / "report.json"
    other = f"{folder / 'other.onnx'},{folder / 'other.split.json'},csv:{data}"
    done = planted.audit("--transfer-shadow", other, "--random-points", "200", "--json", report)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text(), parse_constant=lambda word: pytest.fail(word))
    schema = json.loads((ROOT / "docs/schemas/audit-3.json").read_text())
    errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in jsonschema.Draft202012Validator(schema).iter_errors(found)]
    assert not errors, errors[:5]
    assert {one["adversary"] for one in found["findings"]["ml_leaks"]} == {2, 3}
    nobody = [one for one in found["findings"]["ml_leaks"] if one["precision"]["value"] is None]
    assert nobody and all(one["precision"]["reason"] == "nobody is called a member" for one in nobody)


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


WIDTH, CLASSES = 48, 4


def unit_rows(n, seed):
    """Rows in random directions: no two look alike, so nothing but a memory tells them apart."""
    rows = np.random.default_rng(seed).standard_normal((n, WIDTH)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write_rows(path, rows, labels):
    lines = (",".join([str(label), *(f"{value:.7f}" for value in row)]) for row, label in zip(rows, labels))
    path.write_text("\n".join(lines) + "\n")
    return path


class Planted:
    """A model that knows the first 200 of 600 rows by heart, and nothing else."""

    def __init__(self, folder):
        self.folder = folder
        self.rows = unit_rows(600, 5)
        self.labels = np.random.default_rng(6).integers(0, CLASSES, 600)
        self.data = write_rows(folder / "rows.csv", self.rows, self.labels)
        known, answers = self.rows[:200], np.eye(CLASSES, dtype=np.float32)[self.labels[:200]] * 20
        guess = np.random.default_rng(7).standard_normal((WIDTH, CLASSES)).astype(np.float32)
        arrays = {"known": known.T, "level": np.float32([0.7]), "answers": answers, "guess": guess}
        nodes = [
            helper.make_node("MatMul", ["x", "known"], ["alike"]),
            helper.make_node("Sub", ["alike", "level"], ["above"]),
            helper.make_node("Relu", ["above"], ["same"]),
            helper.make_node("MatMul", ["same", "answers"], ["memory"]),
            helper.make_node("MatMul", ["x", "guess"], ["guessed"]),
            helper.make_node("Add", ["memory", "guessed"], ["logits"]),
        ]
        graph = helper.make_graph(
            nodes, "planted",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", WIDTH])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in arrays.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
        self.model = folder / "planted.onnx"
        onnx.save(model, self.model)

    def side(self, name, rows):
        path = self.folder / name
        path.write_text("\n".join(map(str, rows)) + "\n")
        return path

    def audit(self, *more, members=range(0, 200), others=range(200, 600), data=None):
        return audit("--model", self.model, "--data", f"csv:{data or self.data}", "--members", self.side("members", members),
                     "--non-members", self.side("others", others), *more)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return Planted(tmp_path_factory.mktemp("planted"))


def headline(report, system="undefended"):
    findings = json.loads(report.read_text())["findings"]
    return findings, next(s for s in findings["systems"] if s["name"] == system)["headline"]["value"]


def test_a_planted_leak_is_found(planted, tmp_path):
    report = tmp_path / "report.json"
    record = tmp_path / "record.json"
    record.write_text(json.dumps({"privacy": {"epsilon": 0.5, "delta": 1e-5}}))
    done = planted.audit("--json", report, "--record", record, "--grid")
    assert done.returncode == 0, done.stderr
    findings, found = headline(report)
    assert found["leak"] == "seen" and found["fixed"]["low"] > 0.8, found
    # The two sides are drawn alike, so that only the memory can be what was found.
    assert not findings["lot"]["value"]["differs"] and not findings["warnings"]
    # Every defence keeps the label, and the label tells.
    assert headline(report, "label-only")[1]["fixed"]["low"] > 0.5
    assert "as-is + top-1 (cannot be served)" in [s["name"] for s in findings["systems"]]
    # A training that was private with ε = .5 could not have shown this.
    assert "CONTRADICTED" in done.stdout and findings["systems"][0]["epsilon"]["contradicts_claim"]


def test_a_model_that_never_saw_the_members_gives_chance(planted, tmp_path):
    report = tmp_path / "report.json"
    done = planted.audit("--json", report, members=range(200, 400), others=range(400, 600))
    assert done.returncode == 0, done.stderr
    findings = json.loads(report.read_text())["findings"]
    for system in findings["systems"]:
        for attack in system["attacks"]:
            assert attack["auc"]["low"] < 0.5 < attack["auc"]["high"] or abs(attack["auc"]["value"] - 0.5) < 0.1, attack
        if system["headline"]["value"]:
            fixed = system["headline"]["value"]["fixed"]
            assert fixed["low"] <= 0 <= fixed["high"], (system["name"], fixed)


def test_sides_from_two_sources_are_warned_about(planted, tmp_path):
    moved = planted.rows.copy()
    moved[:200, 0] += 0.5
    data = write_rows(tmp_path / "moved.csv", moved, planted.labels)
    page = tmp_path / "report.html"
    done = planted.audit("--html", page, data=data)
    assert done.returncode == 0 and "WARNING: members and non-members differ in their inputs" in done.stderr, done.stderr
    assert 'class="alarm"' in page.read_text()


def test_further_questions_have_a_budget(planted, tmp_path):
    report = tmp_path / "report.json"
    poor = planted.audit("--queries", "--query-budget", "100")
    assert poor.returncode == 1 and "further queries are wanted, it holds 100" in poor.stderr, poor.stderr
    done = planted.audit("--queries", "--boundary", "--scores-only", "--json", report)
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    names = {a["attack"]["name"] for a in found["findings"]["systems"][0]["attacks"]}
    assert {n.split(",")[0] for n in names} >= {"distance to the boundary", "loss"}, names
    assert any(n.startswith("label under noise") for n in names) and any(n.startswith("mean loss under noise") for n in names)
    told = " ".join(found["not_tried"])
    assert "changed inputs" not in told and "boundary" not in told and "LiRA" in told and "--scores-only" in told
    boundary = next(a for a in found["findings"]["systems"][0]["attacks"] if a["attack"]["name"].startswith("distance"))
    assert boundary["auc"]["low"] > 0.6, boundary["auc"]


def test_bad_input_is_refused_early_and_by_name(planted, tmp_path):
    def refused(*more, code=1, **sides):
        done = planted.audit(*more, **sides)
        assert done.returncode == code, (done.returncode, done.stdout[-300:], done.stderr)
        return done.stderr

    narrow = write_rows(tmp_path / "narrow.csv", planted.rows[:, :-1], planted.labels)
    assert "the rows do not fit the model" in refused(data=narrow)
    labels = planted.labels.copy()
    labels[3] = CLASSES
    more = write_rows(tmp_path / "more.csv", planted.rows, labels)
    assert "the model has 4 classes, the data has 5" in refused(data=more)
    hole = tmp_path / "hole.csv"
    lines = planted.data.read_text().splitlines()
    lines[7] = lines[7].replace(lines[7].split(",")[2], "nan", 1)
    hole.write_text("\n".join(lines) + "\n")
    words = refused(data=hole)
    assert "8" in words and "number" in words, words
    of_class = [row for row in range(600) if planted.labels[row] == 1]
    assert "are of class 1" in refused(members=of_class[:40], others=of_class[40:80])
    assert "is among the members and among the non-members" in refused(members=range(0, 200), others=range(199, 600))
    assert "1 member and 400 non-members are too few" in refused(members=range(0, 1))
    assert "the data has 600 rows" in refused(others=range(590, 601))
    assert "expected rows of shape (1 or 3, height, width), got [48]" in refused("--pictures", "--analysis")
    assert "--shadows" in refused("--augment", "2", code=2)
    assert "inclusion.safetensors" in refused("--shadows", tmp_path)


def test_an_endpoint_that_is_killed_half_way_loses_no_answer(own_model, tmp_path):
    from conftest import Sordino

    rng = np.random.default_rng(3)
    data = write_rows(tmp_path / "rows.csv", np.pad(rng.random((400, 64)), 0).astype(np.float32), np.arange(400) % 10)
    (tmp_path / "members").write_text("\n".join(map(str, range(200))))
    (tmp_path / "others").write_text("\n".join(map(str, range(200, 400))))
    kept, report = tmp_path / "kept.answers", tmp_path / "report.json"

    def arguments(server, *more):
        return ["--endpoint", f"{server.url}/v2/models/{server.name}", "--data", f"csv:{data}", "--members", tmp_path / "members",
                "--non-members", tmp_path / "others", "--answers", kept, "--batch-size", "8", "--json", report, *more]

    first = Sordino("--config", own_model / "sordino.toml")
    command = [BINARY, "audit", *map(str, arguments(first, "--rate", "80")), *QUICK]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + PATIENCE
    while not (kept.exists() and kept.stat().st_size > 20_000):
        assert time.monotonic() < deadline and running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    first.process.kill()
    first.process.wait()
    _, said = running.communicate(timeout=PATIENCE)
    assert running.returncode == 1 and "went away after" in said and "goes on from there" in said, said
    assert not report.exists()
    size = kept.stat().st_size

    second = Sordino("--config", own_model / "sordino.toml")
    done = audit(*arguments(second))
    second.stop()
    assert done.returncode == 0, done.stderr
    source = json.loads(report.read_text())["origin"]["source"]
    assert source["n_kept"] >= 100 and source["n_kept"] % 8 == 0, source
    # What was kept is not asked again, but for one row by which the model is known again.
    assert source["n_kept"] + source["n_asked"] == 401 and kept.stat().st_size > size, source


def test_a_bank_of_shadows_enters_the_report(planted, tmp_path):
    helped = subprocess.run([BINARY, "shadows", "--help"], capture_output=True)
    if helped.returncode != 0:
        pytest.skip("built without the lab")
    split, bank, report = tmp_path / "rows.split.json", tmp_path / "bank", tmp_path / "report.json"
    recipe = tmp_path / "small.toml"
    recipe.write_text('network = { kind = "mlp", hidden = [32] }\nepochs = 15\nbatch_size = 32\nlearning_rate = 1e-2\n')

    def run(*words):
        done = subprocess.run([BINARY, *map(str, words)], capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, (words, done.stderr)

    source = f"csv:{planted.data}"
    run("split", "--data", source, "--train", 300, "--test", 300, "--seed", 1, "--out", split)
    run("train", "--data", source, "--split", split, "--recipe", recipe, "--out", tmp_path / "m.onnx")
    run("shadows", "plan", "--data", source, "--split", split, "--recipe", recipe, "--balanced", 8, "--pool", "train,test",
        "--out", bank)
    run("shadows", "run", bank, "--data", source)
    done = audit("--model", tmp_path / "m.onnx", "--data", source, "--split", split, "--shadows", bank, "--analysis", "--json",
                 report, "--html", tmp_path / "report.html")
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())
    names = [a["attack"]["name"] for a in found["findings"]["systems"][0]["attacks"]]
    assert any(name.startswith("LiRA online") for name in names) and any("RMIA" in name for name in names), names
    study = found["findings"]["leave_one_out"][0]
    of_bank = found["findings"]["shadow_models"]
    assert (of_bank["n_both"], of_bank["n_strangers"], of_bank["left_out"]) == (600, 4, []), of_bank
    assert study["study"]["n_models"] == 8 and {r["row"] for r in study["worst"]} <= set(range(600))
    assert "LiRA" not in " ".join(found["not_tried"])
    schema = json.loads((ROOT / "docs/schemas/audit-3.json").read_text())
    errors = [e.message[:200] for e in jsonschema.Draft202012Validator(schema).iter_errors(found)]
    assert not errors, errors[:5]
    assert "Over other trainings" in done.stdout and "Records of the highest risk" in done.stdout


def test_pictures_show_where_the_network_looks(tmp_path):
    if subprocess.run([BINARY, "train", "--help"], capture_output=True).returncode != 0:
        pytest.skip("built without the lab")
    rng = np.random.default_rng(2)
    images, labels = rng.integers(0, 256, (120, 1, 12, 12), dtype=np.uint8), np.arange(120) % 3
    np.savez(tmp_path / "rows.npz", x=images, y=labels)
    source, model = f"npz:{tmp_path / 'rows.npz'}", tmp_path / "m.onnx"
    command = [BINARY, "train", "--data", source, "--network", "cnn", "--channels", "4,4", "--hidden", "8", "--train-rows", "60",
               "--test-rows", "60", "--epochs", "1", "--batch-size", "16", "--learning-rate", "0.001", "--out", model]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    report, page = tmp_path / "report.json", tmp_path / "report.html"
    words = ["--model", model, "--data", source, "--split", tmp_path / "m.split.json", "--analysis", "--pictures"]
    done = audit(*words, "--heatmaps", tmp_path / "m.weights.safetensors", "--json", report, "--html", page, "--scores-only")
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["analysis"]["value"]
    pictures = found["pictures"]
    near = {one["row"] for of_class in found["extremes"] for one in of_class["nearest"][:3]}
    assert near <= {p["row"] for p in pictures} and all(p["heat"].startswith("iVBORw0KGgo") for p in pictures)
    assert page.read_text().count("data:image/png;base64,") >= 2 * len(pictures)
    # Weights of another network are told by what they answer.
    other = subprocess.run(list(map(str, [*command[:-1], tmp_path / "other.onnx", "--seed", "9"])), capture_output=True, text=True)
    assert other.returncode == 0, other.stderr
    done = audit(*words, "--heatmaps", tmp_path / "other.weights.safetensors", "--scores-only")
    assert done.returncode == 1 and "of another network than the model" in done.stderr, done.stderr


def test_the_kept_audits_follow_the_published_schema():
    schema = json.loads((ROOT / "docs/schemas/audit-3.json").read_text())
    check = jsonschema.Draft202012Validator(schema)
    kept = sorted((ROOT / "docs/evidence/audits").glob("*.json"))
    assert kept
    for path in kept:
        found = json.loads(path.read_text(), parse_constant=lambda word: pytest.fail(f"{path.name}: {word}"))
        errors = [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in check.iter_errors(found)]
        assert not errors, (path.name, errors[:3])
        assert path.stat().st_size < 1 << 20
