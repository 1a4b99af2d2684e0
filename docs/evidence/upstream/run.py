#!/usr/bin/env python3
"""Audits servers that we did not write, with the bundled model in them: as they stand, and with Sordino in front.

    run.py [--only NAME,..] [--work DIR]

Needs `sordino` on the path, Debian's dataset-fashion-mnist, and of the servers those that variables name (benches/peers/peers.py): a
server that is not there is left out. Each endpoint is asked within a budget of one query a row. Then the servers are killed half-way
and started again, and the same command goes on; what it finds must be what an audit without a break found. Reports are copied
here without what other files tell, and README.md is written anew. Only the standard library is used.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "benches/peers"))
import peers  # noqa: E402

SEED = 1
# Rows of the split's parts train and test: a query each.
BUDGET = 14000
# Of some 1,230,000 bytes of kept answers: then the server is killed.
HALF_WAY = 600_000
MODEL = {"bundled": {"shape": [1, 28, 28], "input": "image", "output": "logits"}}
INPUTS = '[{ name = "image", datatype = "FP32", shape = [-1, 1, 28, 28] }]'
# What KServe's server says nothing of (its class does not tell), and its V1 protocol cannot.
TOLD = f"n_classes = 10\ninputs = {INPUTS}\n"
DEFENCES = {
    "reweight-top3": "[defence]\ntop_k = 3\n[defence.method.reweight]\nweight = 0.1\n",
    "label-only": '[defence]\nmethod = "label-only"\n',
}
# Server, protocol by which Sordino asks it, what is declared of it.
FRONTS = {"triton": ("oip-grpc", ""), "mlserver": ("oip-grpc", ""), "kserve": ("kserve-v1", TOLD)}


def prepared(work):
    """The model and its centroids under the names that the servers' scripts look for."""
    models = work / "models"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "models/fashion_cnn.onnx", models / "bundled.onnx")
    shutil.copy(ROOT / "centroids/fashion_cnn.safetensors", models / "bundled.safetensors")
    (models / "about.json").write_text(json.dumps(MODEL))
    folder = work / "servers"
    folder.mkdir(exist_ok=True)
    return peers.Bench(shutil.which("sordino") or sys.exit("no sordino on the path"), None, models, folder)


def in_front(bench, backend, name, defence):
    """Sordino before a server, with this defence."""
    protocol, told = FRONTS[name]
    folder = bench.fresh("sordino")
    output = "predictions" if protocol == "kserve-v1" else "logits"
    url = backend.grpc_url if protocol == "oip-grpc" else backend.url
    (folder / "s.toml").write_text(
        f'[model]\nscore_output = "{output}"\nscore_kind = "logits"\ncentroids = "{bench.models}/bundled.safetensors"\n'
        f'{DEFENCES[defence]}[upstream]\nurls = ["{url}"]\nmodel = "clf"\nprotocol = "{protocol}"\n{told}'
    )
    (port,) = peers.free_ports(1)
    command = [bench.sordino, "serve", "--name", "clf", "--metrics-listen", "off", "--listen", f"127.0.0.1:{port}"]
    return peers.Server([*command, "--config", folder / "s.toml"], port, log=folder / "log")


def audit(bench, work, name, url, options):
    """Runs an audit; answers and report lie under `name`."""
    report = work / f"{name}.json"
    command = [bench.sordino, "audit", "--endpoint", f"{url}/v2/models/clf", "--data", "fashion-mnist"]
    command += ["--split", "models/fashion_cnn.split.json", "--seed", SEED, "--query-budget", BUDGET, "--scores-only", "--quiet"]
    command = [str(word) for word in [*command, "--json", report, *options]]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT), report


def whole(done, report):
    if done.returncode != 0:
        raise SystemExit(f"the audit failed ({done.returncode}): {done.stderr.strip()[-500:]}")
    return json.loads(report.read_text())


def kill(server):
    for pid in reversed(peers.tree(server.process.pid)):
        os.kill(pid, signal.SIGKILL)
    server.process.wait()


def broken(bench, work, name, url, options, break_it, mend_it):
    """An audit whose server goes away half-way and comes back: what the first run says, and what the second finds."""
    answers = work / f"{name}.answers"
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(audit, bench, work, name, url, [*options, "--rate", 4000])
        end = time.monotonic() + 120
        while time.monotonic() < end and not (answers.exists() and answers.stat().st_size > HALF_WAY):
            time.sleep(0.01)
        break_it()
        done, _ = first.result()
    if done.returncode == 0:
        raise SystemExit(f"{name}: the audit ended before its server was killed")
    mend_it()
    said = done.stderr.strip().splitlines()[-1].replace(str(work), "WORK")
    return said, whole(*audit(bench, work, name, url, options))


def defence_of(bench, name):
    """What an attacker is told who knows the defence."""
    path = bench.folder / f"{name}.toml"
    path.write_text(DEFENCES[name])
    return ["--output", "probabilities", "--defence", path, "--centroids", "centroids/fashion_cnn.safetensors"]


UNDEFENDED = ["--output", "logits", "--output-kind", "logits"]


def server_case(bench, work, name):
    """A server as it stands, then behind Sordino under each defence; the model's server is then killed half-way, twice."""
    found, breaks, running = {}, {}, []
    # Whoever is started again gets the ports of before.
    ports = peers.free_ports(3)

    def again():
        fresh, peers.free_ports = peers.free_ports, lambda n: ports[:n]
        try:
            running.append(getattr(bench, name)("bundled"))
        finally:
            peers.free_ports = fresh

    again()
    url = running[0].url
    options = [*UNDEFENDED, "--input", "image"] if name == "kserve" else UNDEFENDED
    try:
        found["undefended"] = whole(*audit(bench, work, f"{name}-undefended", url, options))
        breaks["undefended"] = broken(bench, work, f"{name}-undefended-broken", url, options, lambda: kill(running[-1]), again)
        for defence in DEFENCES:
            front = in_front(bench, running[-1], name, defence)
            try:
                options = defence_of(bench, defence)
                found[defence] = whole(*audit(bench, work, f"{name}-{defence}", front.url, options))
                if defence != "label-only":

                    def come_back():
                        again()
                        front._wait("/v2/health/ready")

                    breaks[defence] = broken(
                        bench, work, f"{name}-{defence}-broken", front.url, options, lambda: kill(running[-1]), come_back
                    )
            finally:
                front.stop()
    finally:
        running[-1].stop()
    return found, breaks


def same(one, other):
    """Whether two reports find the same: all but when and how often was asked."""
    return one["findings"] == other["findings"]


def small(report):
    """Of a report what the table tells, and what is needed to make it again; five figures are more than any interval is worth."""
    report = json.loads(json.dumps(report), parse_float=lambda word: float(f"{float(word):.5g}"))
    for system in report["findings"]["systems"]:
        headline = system["headline"]["value"]
        names = {"loss", "correctness"}
        if headline:
            names |= {headline["fixed_attack"]["name"], headline["widest_attack"]["name"]}
        system["attacks"] = [attack for attack in system["attacks"] if attack["attack"]["name"] in names]
        system["curves"] = []
        for attack in system["attacks"]:
            for at in attack["tpr_at_fpr"]:
                at["predictive_values"] = []
    return json.dumps(report, separators=(",", ":"), allow_nan=False) + "\n"


def estimate(value):
    return "{value:.3f} [{low:.3f}, {high:.3f}]".format(**value)


def row(name, defence, report):
    system = report["findings"]["systems"][0]
    headline, source, utility = system["headline"]["value"], report["origin"]["source"], system["utility"]
    found = f"{estimate(headline['fixed'])} | {headline['fixed_attack']['name']}" if headline else "no attack counts | "
    return (f"| {name} | {defence} | {source['n_asked']} | {found} | {utility['accuracy_members']:.3f} | "
            f"{utility['accuracy_non_members']:.3f} | {utility['nll']:.2f} |")


def page(cases, left_out, version):
    origin = next(iter(cases.values()))[0]["undefended"]["origin"]
    lines = ["# Audits of servers that we did not write", "",
             "Made by `run.py`: the bundled model in Triton (the binary of nvidia-pytriton 0.7.0), MLServer 1.7.1 and KServe 0.21.0, each with "
             "ONNX Runtime, asked by `sordino audit --endpoint` over the Open Inference Protocol, as they stand and with Sordino in front. "
             "Triton and MLServer are asked over gRPC by Sordino, KServe by its V1 protocol. Members are the 4,000 rows that the model was "
             f"trained on, non-members 10,000 others; a query each, seed {SEED}, the score attacks alone (`--scores-only`). (b): TPR − FPR of the "
             "strongest attack that counts, threshold and sign chosen on other rows, 95 % intervals over rows. Behind Sordino the attacker "
             "knows the defence and undoes it.", "",
             f"`SORDINO_TRITON=… SORDINO_MLSERVER=… SORDINO_KSERVE_PYTHON=… docs/evidence/upstream/run.py`, commit {origin['commit']['value']}, "
             f"{origin['machine']}, {version}. Each report holds its own command.", "",
             "| server | defence | queries | (b) | by | accuracy on members | on non-members | NLL |",
             "| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |"]
    for name, (found, _) in cases.items():
        lines += [row(name, defence, report) for defence, report in found.items()]
    same_everywhere = all(
        same(found[defence], cases["triton"][0][defence]) for found, _ in cases.values() for defence in found
    ) if "triton" in cases else False
    lines += ["", f"The findings of the servers are {'the same to the last digit' if same_everywhere else 'not all the same'}.", "",
              "## The server is killed half-way", "",
              "By SIGKILL, once some 600 kB of answers are kept; then it is started again on its ports and the same command given. "
              "Behind Sordino it is the model's server that is killed: Sordino answers 503 meanwhile, and is not started again.", "",
              "| server | defence | what the first run says | asked by the second | kept | findings |",
              "| --- | --- | --- | ---: | ---: | --- |"]
    for name, (found, breaks) in cases.items():
        for defence, (said, report) in breaks.items():
            source = report["origin"]["source"]
            verdict = "those of the audit without a break" if same(report, found[defence]) else "OTHERS"
            doubts = "; ".join(report["origin"]["doubts"])
            lines.append(f"| {name} | {defence} | {said} | {source['n_asked']} | {source['n_kept']} | {verdict}{'; ' + doubts if doubts else ''} |")
    lines += ["", f"Not there, and left out: {', '.join(left_out)}." if left_out else "", ""]
    return "\n".join(lines).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(FRONTS), help="names of servers, separated by commas")
    parser.add_argument("--work", default="target/upstream-audits", help="where servers, answers and whole reports lie")
    args = parser.parse_args()
    work = pathlib.Path(args.work).resolve()
    shutil.rmtree(work, ignore_errors=True)
    bench = prepared(work)
    cases, left_out = {}, []
    for name in args.only.split(","):
        print(f"audits {name}", flush=True)
        try:
            cases[name] = server_case(bench, work, name)
        except peers.Missing as missing:
            left_out.append(f"{name} ({missing})")
    if not cases:
        sys.exit("no server is there")
    for name, (found, _) in cases.items():
        for defence, report in found.items():
            (HERE / f"{name}-{defence}.json").write_text(small(report), encoding="utf-8")
    version = subprocess.run([bench.sordino, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    text = page(cases, left_out, version)
    (HERE / "README.md").write_text(text, encoding="utf-8")
    print(text)
    if "OTHERS" in text:
        sys.exit("an audit that was broken found something else")


if __name__ == "__main__":
    main()
