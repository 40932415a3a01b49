"""The doctor reports what is there, survives what is broken, and fails only where vidreward cannot work."""

import io
import os
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from rich.console import Console

from vidreward import doctor
from vidreward.doctor import Check, check_codec, check_space, print_doctor, run_doctor


def table(checks: list[Check]) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200)
    code = print_doctor(checks, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_everything_is_looked_at_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_rendering", lambda: [])  # slow; it has its own test
    checks = run_doctor()
    names = {check.name for check in checks}
    assert {"python", "torch", "bf16 on CPU", "GPU", "PyAV", "torchcodec", "disk for runs"} <= names
    assert {f"codec {codec}" for codec in ("h264", "hevc", "vp9", "av1")} <= names
    assert {"extra metaworld", "extra tensorboard", "extra wandb"} <= names
    assert [check for check in checks if check.status == "fail"] == []
    code, text = table(checks)
    assert code == 0
    assert all(name in text for name in names)
    assert all(check.found for check in checks)
    assert all(check.action for check in checks if check.status == "warn")


@pytest.mark.parametrize("status", ["ok", "warn", "off", "fail"])
def test_only_a_failure_fails_the_command(status: doctor.Status) -> None:
    good = Check(name="a", status="ok", found="x", meaning="y")
    code, text = table([good, Check(name="b", status=status, found="[x]", meaning="why", action="do this [extra]")])
    assert code == int(status == "fail")
    assert "-> do this [extra]" in text


def test_a_check_that_breaks_is_reported_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Check]:
        raise OSError("the disk is on fire")

    monkeypatch.setattr(doctor, "_check_disk", broken)
    monkeypatch.setattr(doctor, "_check_video", lambda: [])
    monkeypatch.setattr(doctor, "check_rendering", lambda: [])
    checks = run_doctor()
    assert [(check.name, check.found) for check in checks if check.status == "fail"] == [
        ("disk", "OSError: the disk is on fire")
    ]
    assert "python" in {check.name for check in checks}


def test_codecs_that_do_not_work_are_told_apart() -> None:
    assert check_codec("h264", "libx264").status == "ok"
    no_encoder = check_codec("h264", "no_such_encoder")
    assert no_encoder.status == "warn"
    assert "no_such_encoder" in no_encoder.found
    no_decoder = check_codec("no_such_codec", "libx264")
    assert (no_decoder.status, no_decoder.found) == ("warn", "no decoder")


def test_a_codec_that_returns_other_colours_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.write_video
    monkeypatch.setattr(doctor, "write_video", lambda path, frames, fps, **kw: real(path, 255 - frames, fps, **kw))
    check = check_codec("h264", "libx264")
    assert check.status == "fail"
    assert "other colours" in check.found


def test_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    free = 1e9
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda path: usage(1e12, 0, free))
    check = check_space("disk", tmp_path / "not" / "there")
    assert (check.status, check.found) == ("warn", f"1.0 GB free at {tmp_path / 'not' / 'there'}")
    free = 1e11
    assert check_space("disk", tmp_path).status == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert check_space("disk", tmp_path).status == "fail"


@pytest.mark.parametrize("there", [True, False])
def test_bf16_is_told_as_the_library_uses_it(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    capabilities = {"architecture": "x86_64", "avx512_bf16": there, "avx2": True}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    check = doctor._check_bf16()
    assert (check.status, check.found) == (("ok", "avx512_bf16") if there else ("warn", "no bf16 instructions"))


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("print('fine')", None),
        ("import os; os.kill(os.getpid(), 11)", "killed by signal 11"),
        ("raise ValueError('no display')", "ValueError: no display"),
        ("raise SystemExit('the picture is empty')", "the picture is empty"),
        ("raise SystemExit(3)", "exit code 3"),
        ("import time; time.sleep(60)", "no answer in 2 s"),
    ],
)
def test_a_crash_in_another_process_is_told(code: str, problem: str | None) -> None:
    found, output = doctor._run_python(code, {}, timeout=2.0)
    assert found == problem
    assert output == ("fine" if problem is None else "")


def test_rendering_reports_each_way_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mujoco")
    monkeypatch.setattr(doctor, "_RENDER", "import os; raise OSError('no ' + os.environ['MUJOCO_GL'])")
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    (check,) = doctor.check_rendering()
    assert (check.status, check.found) == ("warn", "egl: OSError: no egl; osmesa: OSError: no osmesa")
    assert "libegl1" in check.action


@pytest.mark.slow
def test_rendering_works_where_egl_is_installed() -> None:
    pytest.importorskip("mujoco")
    (check,) = doctor.check_rendering()
    assert check.status == "ok", check


@pytest.mark.slow
def test_the_whole_command() -> None:
    done = subprocess.run([sys.executable, "-m", "vidreward", "doctor"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "codec h264" in done.stdout
