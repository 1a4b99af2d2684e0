"""What was measured, as JSON and as a page."""

import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess

SECTION_TITLES = {
    "serving": "A model served: one connection, closed loop",
    "busy": "The same with 16 connections: what a request costs when nobody rests",
    "upstream": "In front of another server: one connection, closed loop",
    "throughput": "Throughput on all cores, rows that cost milliseconds",
    "start": "Start to ready, and resident memory",
}


def pin(cores):
    os.sched_setaffinity(0, cores)


def load_average():
    return " ".join(f"{value:.2f}" for value in os.getloadavg())


def said(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine():
    model = [line.split(": ", 1)[1] for line in open("/proc/cpuinfo") if line.startswith("model name")]
    kernel = "".join(c for c in platform.release().split("-")[0] if c.isdigit() or c == ".")
    return {"cpu": model[0].strip() if model else platform.machine(), "n_cores": os.cpu_count(), "kernel": kernel}


class Record:
    def __init__(self, data):
        self.data = data

    @classmethod
    def read(cls, folder):
        file = folder and folder / "results.json"
        if file and file.exists():
            return cls(json.loads(file.read_text()))
        return cls({"format": "sordino.peers/1", "sections": {}})

    def add(self, section, run, args, began):
        root = pathlib.Path(__file__).resolve().parent
        commit = said("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
        dirty = "-dirty" if said("git", "-C", str(root), "status", "--porcelain", "--", "../../src") else ""
        command = f"just bench-peers --only {section} --rounds {args.rounds} --seconds {args.seconds}"
        self.data["machine"] = machine()
        self.data["sections"][section] = {
            "command": command,
            "commit": commit + dirty,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
            "cores": sorted(args.cores),
            "load_average_at_start": began,
            "condition": args.condition,
            "left_out": {**run.missing, **run.refused},
            "rows": run.rows,
        }

    def write(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "results.json").write_text(compact(self.data))
        (folder / "README.md").write_text(self.markdown())

    # --- the page ---

    def markdown(self):
        about = self.data.get("machine", {})
        lines = ["# Sordino beside its peers", ""]
        lines += [f"{about.get('cpu')}, {about.get('n_cores')} cores, Linux {about.get('kernel')}. How to read it:", ""]
        lines[-2] = lines[-2].replace("How to read it:", "How to read and repeat it: [docs/latency.md](../../../docs/latency.md).")
        for section, title in SECTION_TITLES.items():
            if section in self.data["sections"]:
                lines += self.section(section, title)
        return "\n".join(lines) + "\n"

    def section(self, section, title):
        data = self.data["sections"][section]
        lines = [f"## {title}", "", "```", data["command"], "```", ""]
        cores = ", ".join(str(core) for core in data["cores"])
        about = f"Commit {data['commit']}, {data['date']}; everything on cores {cores}; load average at the start "
        lines += [about + data["load_average_at_start"] + (f"; {data['condition']}" if data["condition"] else "") + ".", ""]
        if data["left_out"]:
            words = "; ".join(f"{name} ({why})" for name, why in data["left_out"].items())
            lines += [f"Left out: {words}.", ""]
        return lines + {"start": start_table, "throughput": throughput_table}.get(section, latency_tables)(data["rows"])


def groups(rows, *keys):
    found = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def median(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def least(rows, key):
    return min((row[key] for row in rows if row.get(key) is not None), default=None)


def number(value, digits=0):
    return "" if value is None else f"{value:.{digits}f}"


def added(rows, base):
    """The p50 of each round less that of the base in the same round: median, least and most."""
    of_base = {row["round"]: row["p50_us"] for row in base}
    values = [row["p50_us"] - of_base[row["round"]] for row in rows if row["round"] in of_base]
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})" if values else ""


def latency_tables(rows):
    lines = []
    for (section, model), of_model in groups(rows, "section", "model").items():
        by_target = groups(of_model, "target", "encoding")
        n_rounds = len({row["round"] for row in of_model})
        hops = section.startswith("upstream")
        base_name = "the way without a hop" if hops else "bare tract"
        behind = "Triton" if section == "upstream Triton" else "a bare echo"
        title = f"`{model}`, {behind} behind" if hops else f"`{model}`"
        lines += [f"**{title}**, {n_rounds} rounds. *Added*: p50 less that of {base_name} in the same round, median (least to most).", ""]
        beyond = " | added beyond echo µs" if not hops and section == "serving" else ""
        lines += [f"| | p50 µs, median | least | p99 µs, median | least | added µs{beyond} | requests/s | CPU µs a request | generator, cores | RSS MiB |"]
        lines += ["| --- " + "| ---: " * (9 + bool(beyond)) + "|"]
        order = {"": 0, "binary": 1, "json": 2, "grpc": 3}
        for (target, encoding), turns in sorted(by_target.items(), key=lambda item: order[item[0][1]]):
            base = by_target.get(("direct", encoding), []) if hops else by_target.get(("bare tract", ""), [])
            is_base = not encoding or target == "direct" or section == "busy"
            cells = [f"{target}, {encoding}" if encoding else target]
            cells += [number(median(turns, "p50_us")), number(least(turns, "p50_us"))]
            cells += [number(median(turns, "p99_us")), number(least(turns, "p99_us"))]
            cells += ["" if is_base else added(turns, base)]
            if beyond:
                cells += ["" if is_base or target == "echo" else beyond_echo(turns, base, by_target.get(("echo", encoding), []))]
            cells += [number(median(turns, "requests_per_s")), number(median(turns, "cpu_us"))]
            rss = median(turns, "rss_bytes")
            cells += [number(median(turns, "generator_cores"), 2), number(rss and rss / 2**20)]
            lines += ["| " + " | ".join(cells) + " |"]
            failed = sum(row.get("not_ok", 0) for row in turns)
            if failed:
                lines[-1] += f" <!-- {failed} requests failed -->"
        lines += [""]
    return lines


def beyond_echo(turns, tract, echo):
    both = {row["round"]: row["p50_us"] for row in tract}
    shifted = [{**row, "p50_us": row["p50_us"] + both[row["round"]]} for row in echo if row["round"] in both]
    return added(turns, shifted)


def throughput_table(rows):
    lines = ["| | at a time | rows/s, median | most | of bare tract | CPU µs a row |", "| --- | ---: | ---: | ---: | ---: | ---: |"]
    of = groups(rows, "target", "encoding", "concurrency")
    n_cores = max(row["concurrency"] for row in rows if row["target"] == "bare tract")
    base = {row["round"]: row["requests_per_s"] for row in of[("bare tract", "", n_cores)]}
    for (target, encoding, concurrency), turns in of.items():
        share = statistics.median(row["requests_per_s"] / base[row["round"]] for row in turns)
        cells = [f"{target}, {encoding}" if encoding else target, str(concurrency)]
        cells += [number(median(turns, "requests_per_s"), 1), number(max(row["requests_per_s"] for row in turns), 1)]
        cells += [f"{100 * share:.1f} %", number(median(turns, "cpu_us"))]
        lines += ["| " + " | ".join(cells) + " |"]
    return lines + [""]


def start_table(rows):
    lines = ["| | starts | ready after ms, median | least | RSS MiB when ready | after a load of 16 connections |"]
    lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
    for (target,), turns in groups(rows, "target").items():
        mib = lambda key: number((median(turns, key) or 0) / 2**20, 1) if median(turns, key) else ""
        cells = [target, str(len(turns)), number(median(turns, "start_ms")), number(least(turns, "start_ms"))]
        lines += ["| " + " | ".join([*cells, mib("rss_bytes"), mib("rss_after_load_bytes")]) + " |"]
    return lines + [""]


def compact(data):
    """One line a row."""
    text = json.dumps(data, indent=1, default=str)
    rows = []
    for name, section in data["sections"].items():
        lines = ",\n   ".join(json.dumps(shorter(row)) for row in section["rows"])
        rows.append((name, lines))
    bare = {**data, "sections": {name: {**s, "rows": f"@{name}@"} for name, s in data["sections"].items()}}
    text = json.dumps(bare, indent=1)
    for name, lines in rows:
        text = text.replace(f'"@{name}@"', f"[\n   {lines}\n  ]")
    return text + "\n"


def shorter(row):
    return {key: round(value, 2) if isinstance(value, float) else value for key, value in row.items()}
