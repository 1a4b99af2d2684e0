"""The script for machines with a GPU: every command line that it issues is one of this program, and its bars are judged."""

import importlib.util
import json
import subprocess
import sys

import pytest

from conftest import BINARY, ROOT

SCRIPT = ROOT / "docs/evidence/gpu/check.py"


@pytest.fixture(scope="module")
def check():
    spec = importlib.util.spec_from_file_location("gpu_check", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dry_run():
    command = [sys.executable, SCRIPT, "--sordino", BINARY, "--dry-run", "--device", "cuda"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_program_understands_every_command_line_of_the_script():
    done = dry_run()
    assert done.returncode == 0 and "0 that sordino does not understand" in done.stdout, done.stdout


def test_the_dry_run_finds_a_flag_that_the_program_does_not_have(check, monkeypatch, capsys):
    monkeypatch.setattr(check.Lines, "all", lambda args: [["split", "--data", "csv:t", "--train-rows", "5", "--out", "s"]])
    args = type("Args", (), {"sordino": str(BINARY)})
    assert check.dry_run(args) == 1
    assert "--train-rows" in capsys.readouterr().out


def test_a_bar_that_is_missed_or_could_not_be_judged_is_no_pass(check):
    assert check.speed_held({"densenet-bc": {"ratio": 0.71}}) is True
    assert check.speed_held({"densenet-bc": {"ratio": 0.69}}) is False
    assert check.speed_held({"densenet-bc": {"torch": "not measured"}}) is None
    results = {"parity": {"held": True}, "speed": {"held": None}, "bank": {"held": False}, "devices": {}}
    assert check.not_held(results, check.PIECES) == {"speed": "not judged", "bank": "below the bar"}
    assert not check.is_done(results, "speed"), "it is measured again once PyTorch is there"
    assert check.is_done(results, "bank") and check.is_done(results, "devices") and not check.is_done(results, "table3")


def test_the_exit_code_says_that_a_bar_is_not_held(tmp_path):
    stored = {"devices": {"cpu": "c", "gpu": "g", "driver": "d"}, "parity": {"held": True}}
    (tmp_path / "results.json").write_text(json.dumps({**stored, "bank": {"held": False}}))
    command = [sys.executable, SCRIPT, "--sordino", BINARY, "--device", "cpu", "--no-page", "--work", tmp_path]
    done = subprocess.run([*command, "--only", "parity,bank"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "not held: bank (below the bar)" in done.stdout, done.stdout
    done = subprocess.run([*command, "--only", "parity"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
