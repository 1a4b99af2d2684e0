"""How each peer is started, in front of which model, and how to tell that it is ready.

A peer that is not installed is named and left out. Variables say where the others are; `docs/latency.md` says how to
install them:

    SORDINO_PEERS_PYTHON   python with numpy, onnx, onnxruntime, fastapi, uvicorn, uvloop, httptools, orjson
    SORDINO_KSERVE_PYTHON  python with kserve and onnxruntime  [the one before]
    SORDINO_TRITON         a virtual environment of Debian's python3 with nvidia-pytriton, onnxruntime and "numpy<2"
    SORDINO_MLSERVER       the program mlserver, with onnxruntime beside it
    SORDINO_FURNACE        the program built in benches/peers/furnace
    SORDINO_NGINX, SORDINO_HAPROXY, SORDINO_ENVOY  the programs  [of the PATH]
"""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

HERE = pathlib.Path(__file__).resolve().parent
PATIENCE = 60
TICK = os.sysconf("SC_CLK_TCK")


class Missing(Exception):
    """A peer that is not installed."""


def free_ports(n):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(n)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def program(variable, default=None):
    named = os.environ.get(variable)
    path = named or (default and shutil.which(default))
    if not path or not pathlib.Path(path).exists():
        raise Missing(f"{variable} names nothing" + (f", and there is no {default}" if default else ""))
    return str(path)


def stat_fields(pid):
    text = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return text[text.rindex(")") + 2 :].split()


def tree(pid):
    """The process and all that descend from it."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                parents.setdefault(int(stat_fields(entry)[1]), []).append(int(entry))
            except OSError:
                pass
    found, ahead = [], [pid]
    while ahead:
        found.append(ahead.pop())
        ahead += parents.get(found[-1], [])
    return found


class Server:
    """A running process, ready to be asked."""

    def __init__(self, command, port, ready="/v2/health/ready", log=None, **options):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        output = open(log, "w") if log else subprocess.DEVNULL
        start = time.perf_counter()
        words = [str(word) for word in command]
        self.log = log
        self.process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options)
        try:
            self._wait(ready)
        except BaseException:
            self.stop()
            raise
        self.start_ms = 1e3 * (time.perf_counter() - start)

    def _wait(self, ready):
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self.process.poll() is not None:
                said = pathlib.Path(self.log).read_text()[-500:] if self.log else ""
                raise RuntimeError(f"{self.process.args[0]} has ended with {self.process.returncode}: {said}")
            try:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
                connection.request("GET", ready)
                status = connection.getresponse().status
                connection.close()
                if status == 200:
                    return
            except (OSError, http.client.HTTPException):
                pass
            time.sleep(0.001)
        raise RuntimeError(f"{self.process.args[0]} is not ready after {PATIENCE} s")

    def cpu_s(self):
        """Of the whole tree, in user and system mode, with children that have ended."""
        ticks = 0
        for pid in tree(self.process.pid):
            try:
                ticks += sum(int(field) for field in stat_fields(pid)[11:15])
            except OSError:
                pass
        return ticks / TICK

    def rss_bytes(self):
        """Resident pages of the whole tree; what several processes share counts once for each."""
        pages = 0
        for pid in tree(self.process.pid):
            try:
                pages += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
            except OSError:
                pass
        return pages * os.sysconf("SC_PAGE_SIZE")

    def stop(self):
        family = tree(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)
        for pid in family[1:]:
            try:
                os.kill(pid, 9)
            except OSError:
                pass


class Bench:
    """Where things are: the programs that were built, the shared models, a folder for settings and logs."""

    def __init__(self, sordino, bare, models, folder):
        self.sordino, self.bare, self.models, self.folder = sordino, bare, pathlib.Path(models), pathlib.Path(folder)
        self.about = json.loads((self.models / "about.json").read_text())

    def fresh(self, name):
        folder = self.folder / f"{name}-{len(list(self.folder.iterdir()))}"
        folder.mkdir()
        return folder

    # --- servers of a model ---

    def sordino_model(self, model, inline=False, awake=0):
        folder = self.fresh("sordino")
        (folder / "s.toml").write_text(
            f"[server]\nbusy_poll_microseconds = {awake}\n[compute]\ninline = {str(inline).lower()}\n[log]\nlevel = \"warn\"\n"
        )
        (port,) = free_ports(1)
        command = [self.sordino, "serve", "--metrics-listen", "off", "--listen", f"127.0.0.1:{port}"]
        command += ["--config", folder / "s.toml"]
        if model:
            command += ["--name", "clf", "--model", self.models / f"{model}.onnx"]
            command += ["--centroids", self.models / f"{model}.safetensors"]
        server = Server(command, port, log=folder / "log")
        server.grpc_url = server.url
        return server

    def echo(self, model):
        (port,) = free_ports(1)
        stem = self.models / model
        command = [self.bare, "echo", "--listen", f"127.0.0.1:{port}", "--json", f"{stem}-answer.json"]
        command += ["--binary", f"{stem}-answer.bin", "--binary-header", self.about[model]["answer_header"]]
        return Server([*command, "--metadata", f"{stem}-metadata.json"], port)

    def triton(self, model):
        packages = pathlib.Path(program("SORDINO_TRITON")) / "lib/python3.11/site-packages"
        binary = packages / "pytriton/tritonserver/bin/tritonserver"
        if not binary.exists():
            raise Missing(f"SORDINO_TRITON holds no {binary.name}")
        folder = self.fresh("triton")
        shutil.copytree(packages / "pytriton/tritonserver/backends", folder / "backends")
        stub = packages / "pytriton/tritonserver/python_backend_stubs/3.11/triton_python_backend_stub"
        shutil.copy(stub, folder / "backends/python/")
        (folder / "repository/clf/1").mkdir(parents=True)
        shape = ", ".join(str(dim) for dim in self.about[model]["shape"])
        taken, given = self._names(model)
        config = f"""name: "clf" backend: "python" max_batch_size: 64
            input [{{ name: "{taken}" data_type: TYPE_FP32 dims: [{shape}] }}]
            output [{{ name: "{given}" data_type: TYPE_FP32 dims: [10] }}]
            instance_group [{{ kind: KIND_CPU count: 1 }}]
            dynamic_batching {{ max_queue_delay_microseconds: 0 }}"""
        (folder / "repository/clf/config.pbtxt").write_text(config)
        shutil.copy(HERE / "servers/triton_ort.py", folder / "repository/clf/1/model.py")
        port, grpc_port, metrics_port = free_ports(3)
        command = [binary, "--model-repository", folder / "repository", "--backend-directory", folder / "backends"]
        command += ["--http-address", "127.0.0.1", "--http-port", port, "--grpc-address", "127.0.0.1"]
        command += ["--grpc-port", grpc_port, "--metrics-port", metrics_port, "--exit-timeout-secs", 5]
        command += ["--model-control-mode", "explicit", "--load-model", "clf"]
        paths = {"LD_LIBRARY_PATH": str(packages / "nvidia_pytriton.libs"), "PYTHONPATH": str(packages)}
        paths |= {"PATH": f"{os.environ['SORDINO_TRITON']}/bin:/usr/bin:/bin", **self._model(model)}
        server = Server(command, port, log=folder / "log", env={**os.environ, **paths})
        server.grpc_url = f"http://127.0.0.1:{grpc_port}"
        return server

    def mlserver(self, model):
        mlserver = program("SORDINO_MLSERVER")
        folder = self.fresh("mlserver")
        port, grpc_port, metrics_port = free_ports(3)
        settings = {"host": "127.0.0.1", "http_port": port, "grpc_port": grpc_port, "metrics_port": metrics_port}
        settings |= {"parallel_workers": 0, "debug": False, "gzip_enabled": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        tensor = lambda name, shape: [{"name": name, "datatype": "FP32", "shape": [-1, *shape]}]
        about = {"name": "clf", "implementation": "mlserver_ort.OnnxRuntime", "parameters": {"version": "1"}}
        taken, given = self._names(model)
        about |= {"inputs": tensor(taken, self.about[model]["shape"]), "outputs": tensor(given, [10])}
        (folder / "model-settings.json").write_text(json.dumps(about))
        shutil.copy(HERE / "servers/mlserver_ort.py", folder)
        env = {**os.environ, **self._model(model)}
        command = [mlserver, "start", "."]
        server = Server(command, port, "/v2/models/clf/ready", log=folder / "log", env=env, cwd=folder)
        server.grpc_url = f"http://127.0.0.1:{grpc_port}"
        return server

    def kserve(self, model):
        python = os.environ.get("SORDINO_KSERVE_PYTHON") or program("SORDINO_PEERS_PYTHON")
        folder = self.fresh("kserve")
        port, grpc_port = free_ports(2)
        command = [python, HERE / "servers/kserve_ort.py", "--http_port", port, "--grpc_port", grpc_port]
        command += ["--enable_latency_logging", "false"]
        env = {**os.environ, **self._model(model)}
        server = Server(command, port, log=folder / "log", env=env)
        server.grpc_url = f"http://127.0.0.1:{grpc_port}"
        return server

    def fastapi(self, model):
        python = program("SORDINO_PEERS_PYTHON")
        folder = self.fresh("fastapi")
        (port,) = free_ports(1)
        command = [python, "-m", "uvicorn", "fastapi_ort:app", "--host", "127.0.0.1", "--port", port]
        command += ["--no-access-log", "--log-level", "warning"]
        env = {**os.environ, **self._model(model)}
        return Server(command, port, log=folder / "log", env=env, cwd=HERE / "servers")

    def furnace(self, model):
        if model != "mlp":
            raise Missing("it takes no ONNX, and has the MLP alone")
        furnace = program("SORDINO_FURNACE")
        folder = self.fresh("furnace")
        port, grpc_port = free_ports(2)
        names = {"PEER_PORT": str(port), "PEER_GRPC_PORT": str(grpc_port)}
        env = {**os.environ, **names, "PEER_WEIGHTS": str(self.models / "mlp.f32")}
        server = Server([furnace], port, log=folder / "log", env=env)
        server.grpc_url = f"http://127.0.0.1:{grpc_port}"
        return server

    def _names(self, model):
        """Of the input and the output."""
        return self.about[model].get("input", "input"), self.about[model].get("output", "output")

    def _model(self, model):
        return {"PEER_MODEL": str(self.models / f"{model}.onnx")}

    # --- hops in front of `backend` ---

    def bare_hop(self, backend):
        (port,) = free_ports(1)
        command = [self.bare, "hop", "--listen", f"127.0.0.1:{port}", "--to", f"127.0.0.1:{backend.port}"]
        return Server(command, port)

    def nginx(self, backend):
        nginx = program("SORDINO_NGINX", "nginx")
        folder = self.fresh("nginx")
        (port,) = free_ports(1)
        pass_on = 'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";'
        temporary = " ".join(
            f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        (folder / "nginx.conf").write_text(
            f"""daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/log;
            events {{ worker_connections 1024; }}
            http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; client_body_buffer_size 1m;
             {temporary}
             upstream backend {{ server 127.0.0.1:{backend.port}; keepalive 64; keepalive_requests 100000000;
              keepalive_timeout 600s; }}
             server {{ listen 127.0.0.1:{port}; location / {{ {pass_on}
              proxy_request_buffering off; proxy_buffering off; }} }} }}"""
        )
        return Server([nginx, "-p", folder, "-c", folder / "nginx.conf", "-e", folder / "log"], port)

    def haproxy(self, backend):
        haproxy = program("SORDINO_HAPROXY", "haproxy")
        folder = self.fresh("haproxy")
        (port,) = free_ports(1)
        (folder / "haproxy.cfg").write_text(
            f"""global
  nbthread 1
  maxconn 2000
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  option http-keep-alive
  http-reuse always
frontend front
  bind 127.0.0.1:{port}
  default_backend back
backend back
  server s1 127.0.0.1:{backend.port}
"""
        )
        return Server([haproxy, "-db", "-f", folder / "haproxy.cfg"], port, log=folder / "log")

    def envoy(self, backend, lua=False):
        envoy = program("SORDINO_ENVOY", "envoy")
        folder = self.fresh("envoy")
        (port,) = free_ports(1)
        kind = "type.googleapis.com/envoy.extensions.filters"
        filters = [{"name": "router", "typed_config": {"@type": f"{kind}.http.router.v3.Router"}}]
        if lua:
            code = (HERE / "rewrite.lua").read_text()
            rewrite = {"@type": f"{kind}.http.lua.v3.Lua", "default_source_code": {"inline_string": code}}
            filters.insert(0, {"name": "lua", "typed_config": rewrite})
        address = lambda at: {"socket_address": {"address": "127.0.0.1", "port_value": at}}
        host = {"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "back"}}]}
        manager = {
            "@type": f"{kind}.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "front",
            "route_config": {"virtual_hosts": [host]},
            "http_filters": filters,
        }
        listener = {
            "name": "front",
            "address": address(port),
            "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
        }
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address(backend.port)}}]}]
        assigned = {"cluster_name": "back", "endpoints": endpoints}
        cluster = {"name": "back", "type": "STATIC", "load_assignment": assigned}
        resources = {"static_resources": {"listeners": [listener], "clusters": [cluster]}}
        (folder / "envoy.json").write_text(json.dumps(resources))
        command = [envoy, "-c", folder / "envoy.json", "--concurrency", 1, "--log-level", "error"]
        return Server([*command, "--disable-hot-restart"], port, log=folder / "log")

    def sordino_upstream(self, backend, binary, protocol="oip-http", awake=0):
        folder = self.fresh("sordino-upstream")
        (port,) = free_ports(1)
        url = backend.grpc_url if protocol == "oip-grpc" else backend.url
        (folder / "s.toml").write_text(
            f"""[server]
busy_poll_microseconds = {awake}
[model]
score_output = "output"
score_kind = "logits"
centroids = "{self.models}/mlp.safetensors"
[upstream]
urls = ["{url}"]
model = "clf"
protocol = "{protocol}"
binary = {str(binary).lower()}
[log]
level = "warn"
"""
        )
        command = [self.sordino, "serve", "--name", "clf", "--metrics-listen", "off"]
        command += ["--listen", f"127.0.0.1:{port}", "--config", folder / "s.toml"]
        return Server(command, port, log=folder / "log")
