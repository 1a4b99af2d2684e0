"""Sordino beside other servers and other hops: same model, same bytes, same cores, in turns, in one run.

    just bench-peers --out benches/runs/DATE-peers

Every round measures each target once, one after another, by `sordino bench` in a process of its own; all servers run all
the time and rest while another is measured. Everything is pinned to the same cores, the load generator too. `--only`
runs some sections and leaves the others in results.json as they were. What stands in the tables: docs/latency.md.
"""

import argparse
import contextlib
import http.client
import json
import pathlib
import subprocess
import sys
import tempfile

import page
from peers import HERE, Bench, Missing, program

ROOT = HERE.parent.parent
SECTIONS = ["serving", "upstream", "busy", "throughput", "start"]
N_BODIES = 8
# What "awake" sets busy_poll_microseconds to: longer than any backend here takes.
AWAKE = 1000


class Target:
    """Somebody to put a load on, in one encoding."""

    def __init__(self, name, server, encoding):
        self.name, self.server, self.encoding = name, server, encoding


class Run:
    def __init__(self, args, folder):
        self.args = args
        self.bench = Bench(args.sordino, args.bare, args.models, folder)
        self.rows, self.starts, self.missing, self.refused = [], [], {}, {}

    # --- one measurement ---

    def load(self, target, model, seconds, concurrency):
        url = target.server.grpc_url if target.encoding == "grpc" else target.server.url
        command = [self.args.sordino, "bench", "--json", "--url", url, "--model", "clf", "--warmup", "0"]
        command += ["--encoding", target.encoding, "--concurrency", concurrency, "--duration", seconds]
        if target.encoding != "grpc":
            suffix = {"json": "json", "binary": "bin"}[target.encoding]
            for number in range(N_BODIES):
                command += ["--body", self.bench.models / f"{model}-{number}.{suffix}"]
        if target.encoding == "binary":
            command += ["--header", f"Inference-Header-Content-Length: {self.bench.about[model]['header']}"]
        output = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
        if output.returncode != 0:
            raise RuntimeError(f"{target.name}, {target.encoding}: {output.stderr.strip()} {output.stdout[:200]}")
        return json.loads(output.stdout)

    def turn(self, section, model, target, number, seconds, concurrency=1):
        self.load(target, model, 0.2, concurrency)
        before = target.server.cpu_s()
        report = self.load(target, model, seconds, concurrency)
        cpu_s = target.server.cpu_s() - before
        self.rows.append(
            {
                "section": section,
                "model": model,
                "target": target.name,
                "encoding": target.encoding,
                "round": number,
                "concurrency": concurrency,
                **{f"{name}_us": report["latency_us"][name] for name in ("min", "mean", "p50", "p90", "p99", "p99_9")},
                "requests_per_s": report["requests_per_s"],
                "cpu_us": 1e6 * cpu_s / report["n_answered"],
                "generator_cores": report["generator_cores"],
                "not_ok": report["n_answered"] - report["n_ok"] + report["n_failed"],
                "rss_bytes": target.server.rss_bytes(),
            }
        )

    def in_process(self, section, model, number, seconds, threads=1):
        """The engines alone."""
        shape = ",".join(str(dim) for dim in [1, *self.bench.about[model]["shape"]])
        onnx = self.bench.models / f"{model}.onnx"
        commands = {
            "bare tract": [self.bench.bare, "tract", "--model", onnx, "--shape", shape]
            + ["--seconds", seconds, "--threads", threads]
        }
        with self.or_missing("bare ONNX Runtime"):
            python = program("SORDINO_PEERS_PYTHON")
            commands["bare ONNX Runtime"] = [python, HERE / "servers/ort_bare.py", onnx, shape, seconds, threads]
        for name, command in commands.items():
            output = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)
            if output.returncode != 0:
                raise RuntimeError(f"{name}: {output.stderr[-400:]}")
            report = json.loads(output.stdout)
            row = {"section": section, "model": model, "target": name, "encoding": "", "round": number}
            row |= {"concurrency": threads, "requests_per_s": report["rows_per_s"]}
            self.rows.append(row | {f"{name}_us": report["latency_us"][name] for name in ("min", "mean", "p50", "p99")})

    # --- what is there ---

    @contextlib.contextmanager
    def or_missing(self, name):
        try:
            yield
        except Missing as why:
            if name not in self.missing:
                print(f"left out: {name}: {why}", file=sys.stderr)
            self.missing[name] = str(why)

    def start(self, stack, name, make):
        """A server that ends with the stack, or none where it is missing."""
        with self.or_missing(name):
            server = make()
            stack.callback(server.stop)
            self.starts.append({"target": name, "start_ms": server.start_ms, "rss_bytes": server.rss_bytes()})
            return server
        return None

    def answers(self, target, model):
        """Whether it answers as the model does; told once where not."""
        try:
            if target.encoding == "grpc":
                self.load(target, model, 0.05, 1)
            else:
                self.check(target, model)
        except Exception as why:
            print(f"left out: {target.name}, {target.encoding}: {why}", file=sys.stderr)
            self.refused[f"{target.name}, {target.encoding}"] = str(why)[:200]
            return False
        return True

    def check(self, target, model):
        """The class of the first request is the model's, whoever says it and in whatever form."""
        suffix = {"json": "json", "binary": "bin"}[target.encoding]
        headers = {"Content-Type": "application/json"}
        if target.encoding == "binary":
            headers = {"Content-Type": "application/octet-stream"}
            headers["Inference-Header-Content-Length"] = str(self.bench.about[model]["header"])
        body = (self.bench.models / f"{model}-0.{suffix}").read_bytes()
        connection = http.client.HTTPConnection("127.0.0.1", target.server.port, timeout=20)
        connection.request("POST", "/v2/models/clf/infer", body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        assert response.status == 200, f"{response.status} {answer[:150]!r}"
        length = response.getheader("Inference-Header-Content-Length")
        assert bool(length) == (target.encoding == "binary"), "it answers in the other encoding"
        output = json.loads(answer[: int(length)] if length else answer)["outputs"][0]
        data = memoryview(answer)[int(length) :].cast("f").tolist() if length else sum_lists(output["data"])
        label = self.bench.about[model]["labels"][0]
        assert len(data) == 10 and data.index(max(data)) == label, f"it answers another class than {label}"

    # --- the sections ---

    def servers(self, stack, model):
        bench = self.bench
        peers = {
            "echo": (lambda: bench.echo(model), ["binary", "json"]),
            "sordino, queued": (lambda: bench.sordino_model(model), ["binary", "json", "grpc"]),
            "sordino, inline": (lambda: bench.sordino_model(model, inline=True), ["binary", "json", "grpc"]),
            "sordino, awake": (lambda: bench.sordino_model(model, awake=AWAKE), ["binary", "json", "grpc"]),
            "furnace-server": (lambda: bench.furnace(model), ["binary", "json", "grpc"]),
            "Triton": (lambda: bench.triton(model), ["binary", "json", "grpc"]),
            "FastAPI + ONNX Runtime": (lambda: bench.fastapi(model), ["binary", "json"]),
            "MLServer": (lambda: bench.mlserver(model), ["json", "grpc"]),
            "KServe": (lambda: bench.kserve(model), ["binary", "json", "grpc"]),
        }
        targets = []
        for name, (make, encodings) in peers.items():
            server = self.start(stack, name, make)
            if server:
                candidates = [Target(name, server, encoding) for encoding in encodings]
                targets += [target for target in candidates if self.answers(target, model)]
        return targets

    def serving(self):
        for model in ("mlp", "cnn32"):
            with contextlib.ExitStack() as stack:
                targets = self.servers(stack, model)
                if model == "cnn32":
                    targets = [target for target in targets if target.encoding != "grpc"]
                for number in range(self.args.rounds):
                    print(f"serving {model}, round {number + 1} of {self.args.rounds}", file=sys.stderr)
                    self.in_process("serving", model, number, self.args.seconds)
                    for target in targets:
                        self.turn("serving", model, target, number, self.args.seconds)

    def busy(self):
        """More connections than cores: what a request costs when nobody rests."""
        with contextlib.ExitStack() as stack:
            targets = [target for target in self.servers(stack, "mlp") if target.encoding != "grpc"]
            for number in range(max(1, self.args.rounds // 2)):
                print(f"busy, round {number + 1}", file=sys.stderr)
                for target in targets:
                    self.turn("busy", "mlp", target, number, self.args.seconds, concurrency=16)

    def upstream(self):
        bench = self.bench
        with contextlib.ExitStack() as stack:
            backend = self.start(stack, "echo", lambda: bench.echo("mlp"))
            hops = {
                "direct": (lambda: backend, ["json", "binary"]),
                "bare hop": (lambda: bench.bare_hop(backend), ["json", "binary"]),
                "nginx": (lambda: bench.nginx(backend), ["json", "binary"]),
                "HAProxy": (lambda: bench.haproxy(backend), ["json", "binary"]),
                "Envoy": (lambda: bench.envoy(backend), ["json", "binary"]),
                "Envoy + Lua": (lambda: bench.envoy(backend, lua=True), ["json"]),
                "sordino, JSON behind": (lambda: bench.sordino_upstream(backend, False), ["json", "binary"]),
                "sordino, binary behind": (lambda: bench.sordino_upstream(backend, True), ["json", "binary"]),
                "sordino, awake, binary behind": (
                    lambda: bench.sordino_upstream(backend, True, awake=AWAKE),
                    ["json", "binary"],
                ),
            }
            self.hop_rounds(stack, "upstream", hops, self.args.rounds)
        with contextlib.ExitStack() as stack:
            backend = self.start(stack, "Triton", lambda: bench.triton("mlp"))
            if not backend:
                return
            hops = {
                "direct": (lambda: backend, ["json", "binary"]),
                "nginx": (lambda: bench.nginx(backend), ["json", "binary"]),
                "Envoy + Lua": (lambda: bench.envoy(backend, lua=True), ["json"]),
                "sordino, JSON behind": (lambda: bench.sordino_upstream(backend, False), ["json"]),
                "sordino, binary behind": (lambda: bench.sordino_upstream(backend, True), ["json", "binary"]),
                "sordino, gRPC behind": (
                    lambda: bench.sordino_upstream(backend, True, "oip-grpc"),
                    ["json", "binary"],
                ),
                "sordino, awake, binary behind": (
                    lambda: bench.sordino_upstream(backend, True, awake=AWAKE),
                    ["json", "binary"],
                ),
                "sordino, awake, gRPC behind": (
                    lambda: bench.sordino_upstream(backend, True, "oip-grpc", AWAKE),
                    ["json", "binary"],
                ),
            }
            self.hop_rounds(stack, "upstream Triton", hops, max(1, self.args.rounds // 2))

    def hop_rounds(self, stack, section, hops, rounds):
        targets = []
        for name, (make, encodings) in hops.items():
            server = make() if name == "direct" else self.start(stack, name, make)
            if server:
                candidates = [Target(name, server, encoding) for encoding in encodings]
                targets += [target for target in candidates if self.answers(target, "mlp")]
        for number in range(rounds):
            print(f"{section}, round {number + 1} of {rounds}", file=sys.stderr)
            for target in targets:
                self.turn(section, "mlp", target, number, self.args.seconds)

    def throughput(self):
        """A row that costs milliseconds, on all cores."""
        seconds = 2 * self.args.seconds
        n_cores = len(self.args.cores)
        with contextlib.ExitStack() as stack:
            server = self.start(stack, "sordino, queued", lambda: self.bench.sordino_model("heavy"))
            fastapi = self.start(stack, "FastAPI + ONNX Runtime", lambda: self.bench.fastapi("heavy"))
            for number in range(max(1, self.args.rounds // 2)):
                print(f"throughput, round {number + 1}", file=sys.stderr)
                self.in_process("throughput", "heavy", number, seconds, threads=n_cores)
                self.in_process("throughput", "heavy", number, seconds / 2, threads=1)
                for encoding in ("binary", "json"):
                    target = Target("sordino, queued", server, encoding)
                    self.turn("throughput", "heavy", target, number, seconds, concurrency=2 * n_cores)
                if fastapi:
                    target = Target("FastAPI + ONNX Runtime", fastapi, "binary")
                    self.turn("throughput", "heavy", target, number, seconds, concurrency=2 * n_cores)

    def start_up(self):
        """From the start of the process to the first 200 of its readiness, and what it holds then."""
        bench = self.bench
        makes = {
            "sordino, bundled model": lambda: bench.sordino_model(None),
            "furnace-server": lambda: bench.furnace("mlp"),
            "Triton": lambda: bench.triton("mlp"),
            "FastAPI + ONNX Runtime": lambda: bench.fastapi("mlp"),
            "MLServer": lambda: bench.mlserver("mlp"),
            "KServe": lambda: bench.kserve("mlp"),
        }
        for name, make in makes.items():
            for number in range(10 if name.startswith("sordino") else 3):
                print(f"start of {name}, {number + 1}", file=sys.stderr)
                with contextlib.ExitStack() as stack:
                    server = self.start(stack, name, make)
                    if not server:
                        break
                    row = {"section": "start", "target": name, "round": number, **self.starts.pop()}
                    if name.startswith("sordino"):
                        command = [self.args.sordino, "bench", "--json", "--url", server.url, "--model", "fashion"]
                        command += ["--duration", "1", "--warmup", "0", "--concurrency", "16"]
                        subprocess.run([str(word) for word in command], capture_output=True, timeout=60, check=True)
                        row["rss_after_load_bytes"] = server.rss_bytes()
                    self.rows.append(row)


def sum_lists(data):
    return [x for row in data for x in (row if isinstance(row, list) else [row])]


def prepare(args):
    """The models and what is fitted to them, once."""
    if not (args.models / "about.json").exists():
        subprocess.run([program("SORDINO_PEERS_PYTHON"), HERE / "servers/models.py", args.models], check=True)
    for model in json.loads((args.models / "about.json").read_text()):
        out = args.models / f"{model}.safetensors"
        if not out.exists():
            command = [args.sordino, "centroids", "build", "--quiet", "--model", args.models / f"{model}.onnx"]
            command += ["--data", f"npz:{args.models / f'{model}-rows.npz'}", "--out", out]
            subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sordino", type=pathlib.Path, required=True, help="the program")
    parser.add_argument("--bare", type=pathlib.Path, required=True, help="the program of benches/bare.rs")
    parser.add_argument("--models", type=pathlib.Path, default=ROOT / "target/peers", help="folder of the shared models")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--cores", default="0,1", help="of everything")
    parser.add_argument("--only", default=",".join(SECTIONS), help="sections: " + ", ".join(SECTIONS))
    parser.add_argument("--condition", default="", help="a sentence about the machine during the run, for the record")
    parser.add_argument("--commit", help="what the program was built from, if not what is checked out")
    parser.add_argument("--out", type=pathlib.Path, help="folder of README.md and results.json")
    args = parser.parse_args()
    args.cores = {int(core) for core in args.cores.split(",")}
    page.pin(args.cores)
    args.sordino, args.bare, args.models = args.sordino.resolve(), args.bare.resolve(), args.models.resolve()
    prepare(args)
    record = page.Record.read(args.out)
    sections = args.only.split(",")
    with tempfile.TemporaryDirectory(prefix="peers-") as folder:
        run = Run(args, folder)
        for section in sections:
            if section not in SECTIONS:
                parser.error(f"no section is called {section}")
            began = page.load_average()
            {"start": run.start_up}.get(section, getattr(run, section, None))()
            record.add(section, run, args, began)
            run.rows, run.starts, run.missing, run.refused = [], [], {}, {}
            if args.out:
                record.write(args.out)
    print(record.markdown())


if __name__ == "__main__":
    main()
