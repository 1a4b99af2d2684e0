"""Counts the instructions of one request's decode, defend and encode under valgrind's callgrind, and holds them against
`baseline.json`: more than the tolerance over it fails. Standard library alone.

    count.py PROGRAM              # compare
    count.py PROGRAM --rebase     # write the baseline anew; say in the commit why it moved

Each case runs with two numbers of repetitions; the difference is free of the program's start. The count is the same in
every run on one machine. It differs a little between machines: the C library and the defence pick their code by what
the processor can do, as valgrind lets it look (AVX2 at most). The tolerance is for that and for a new compiler.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
FEW, MANY = 20, 120


def instructions(program, case, n):
    with tempfile.NamedTemporaryFile(suffix=".callgrind") as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", program, case, str(n)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        if done.returncode != 0:
            raise SystemExit(f"{case}: {done.stderr[-800:]}")
        for line in pathlib.Path(out.name).read_text().splitlines():
            if line.startswith(("summary:", "totals:")):
                return int(line.split()[1])
    raise SystemExit(f"{case}: callgrind wrote no sum")


def per_request(program, case):
    return round((instructions(program, case, MANY) - instructions(program, case, FEW)) / (MANY - FEW))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", help="the bench `instructions`")
    parser.add_argument("--rebase", action="store_true", help="write the baseline anew")
    args = parser.parse_args()
    if not shutil.which("valgrind"):
        print("instructions: SKIPPED, valgrind is not installed")
        return 0
    cases = subprocess.run([args.program, "--list"], capture_output=True, text=True, check=True).stdout.splitlines()
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        counted = dict(zip(cases, pool.map(lambda case: per_request(args.program, case), cases)))
    file = HERE / "baseline.json"
    if args.rebase:
        record = {"tolerance": 0.05, "instructions": counted}
        file.write_text(json.dumps(record, indent=1) + "\n")
    baseline = json.loads(file.read_text())
    tolerance, expected = baseline["tolerance"], baseline["instructions"]
    over = set(counted) ^ set(expected)
    for case, n in counted.items():
        share = n / expected[case] - 1 if case in expected else float("nan")
        mark = ""
        if share > tolerance:
            over.add(case)
            mark = "  OVER"
        elif share < -tolerance:
            mark = "  well under: take it into the baseline"
        print(f"{case:32}{n:>10} instructions{share:>+8.1%}{mark}")
    if over:
        print(f"instructions: over the baseline by more than {tolerance:.0%}, or not in it: {', '.join(sorted(over))}")
        print("instructions: where it is meant, `just instructions --rebase` writes the baseline anew")
        return 1
    print(f"instructions: ok, all within {tolerance:.0%} of the baseline or under it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
