"""First aid: look at what this machine can do for vidreward, say what it means and what to do about it."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from vidreward.data.encode import write_video
from vidreward.scoring import has_fast_bf16

Status = Literal["ok", "warn", "fail", "off"]

CODECS = {"h264": "libx264", "hevc": "libx265", "vp9": "libvpx-vp9", "av1": "libsvtav1"}
"""Codecs of the videos people have, and the encoder that makes the test clip."""

MINIMUM_FREE_GB = 5.0
"""A frame cache of the demonstration and its run take less than one; five leaves room for a data set."""

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "off": "dim"}

_RENDER = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    "<mujoco><worldbody><light pos='0 0 3'/><geom type='sphere' size='1' rgba='1 0 0 1'/></worldbody></mujoco>")
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 64, 64) as renderer:
    renderer.update_scene(data)
    image = renderer.render()
if image.std() < 1:
    raise SystemExit("the picture is empty")
print(mujoco.__version__)
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Status
    """ok: works; warn: works, but slower or with less; fail: vidreward cannot work; off: optional and not there."""
    found: str
    """What is there."""
    meaning: str
    """What it means for the user."""
    action: str = ""
    """What to do; empty when there is nothing to do."""


def run_doctor() -> list[Check]:
    """Look at everything; a check that breaks is reported as a failure, with its error, and the others go on."""
    groups: dict[str, Callable[[], Sequence[Check]]] = {
        "python": _check_python,
        "torch": _check_torch,
        "GPU": _check_gpu,
        "video": _check_video,
        "torchcodec": _check_torchcodec,
        "extras": _check_extras,
        "OpenGL": check_rendering,
        "disk": _check_disk,
    }
    checks: list[Check] = []
    for name, group in groups.items():
        try:
            checks.extend(group())
        except Exception as error:
            found = f"{type(error).__name__}: {error}"
            checks.append(Check(name=name, status="fail", found=found, meaning="the check itself failed"))
    return checks


def print_doctor(checks: Sequence[Check], console: Console | None = None) -> int:
    """Print the checks as a table.

    Returns:
        The exit code of the command: 1 when a check failed, else 0.
    """
    console = console or Console()
    table = Table(show_lines=False, pad_edge=False, title="vidreward doctor", title_justify="left")
    for heading in ("", "what", "found", "meaning and what to do"):
        table.add_column(heading, overflow="fold")
    for check in checks:
        advice = check.meaning if not check.action else f"{check.meaning}\n-> {check.action}"
        cells = [_plain(text) for text in (check.status, check.name, check.found, advice)]
        table.add_row(f"[{_STYLES[check.status]}]{cells[0]}[/]", *cells[1:])
    console.print(table)
    num_failed = sum(check.status == "fail" for check in checks)
    console.print(f"{num_failed} failed" if num_failed else "nothing failed: vidreward can work here")
    return int(num_failed > 0)


def _plain(text: str) -> str:
    return text.replace("[", r"\[")


def _check_python() -> list[Check]:
    version = platform.python_version()
    found = f"{version} ({platform.system()} {platform.machine()}), vidreward {metadata.version('vidreward')}"
    return [Check(name="python", status="ok", found=found, meaning="supported")]


def _check_torch() -> list[Check]:
    num_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    num_threads = torch.get_num_threads()
    found = f"{torch.__version__}, {num_threads} threads on {num_cores} usable cores"
    if num_threads > num_cores:
        threads = Check(
            name="torch",
            status="warn",
            found=found,
            meaning="more threads than cores: they wait for each other",
            action=f"set OMP_NUM_THREADS={num_cores}",
        )
    else:
        threads = Check(name="torch", status="ok", found=found, meaning="works")
    return [threads, _check_bf16()]


def _check_bf16() -> Check:
    product = torch.ones(8, 8, dtype=torch.bfloat16) @ torch.ones(8, 8, dtype=torch.bfloat16)
    if not torch.equal(product, torch.full((8, 8), 8, dtype=torch.bfloat16)):
        return Check(
            name="bf16 on CPU",
            status="fail",
            found="a bf16 product is wrong",
            meaning="this torch build computes wrong numbers here",
            action="install another torch release",
        )
    units = [name for name, there in torch.cpu.get_capabilities().items() if there is True and "bf16" in name]
    if has_fast_bf16("cpu"):
        return Check(name="bf16 on CPU", status="ok", found=", ".join(units), meaning="training on the CPU is fast")
    return Check(
        name="bf16 on CPU",
        status="warn",
        found="no bf16 instructions",
        meaning="the CPU works in fp32, which is slower",
        action="use smaller videos or fewer steps, or a GPU",
    )


def _check_gpu() -> list[Check]:
    if torch.cuda.is_available():
        return [_describe_gpu(number) for number in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        return [Check(name="GPU", status="ok", found="Apple (mps)", meaning="can be used")]
    if Path("/proc/driver/nvidia").exists():
        return [
            Check(
                name="GPU",
                status="warn",
                found=f"an NVIDIA driver, but torch (CUDA {torch.version.cuda}) cannot use it",
                meaning="training runs on the CPU",
                action="install a torch build for this driver (pytorch.org, 'get started'), or a newer driver",
            )
        ]
    return [Check(name="GPU", status="off", found="none", meaning="everything runs on the CPU, larger models slowly")]


def _describe_gpu(number: int) -> Check:
    properties = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    found = f"cuda:{number} {properties.name}, {free / 2**30:.0f} of {total / 2**30:.0f} GiB free"
    return Check(name="GPU", status="ok", found=found, meaning="can be used")


def _check_video() -> list[Check]:
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints banners otherwise
    ffmpeg = ".".join(str(number) for number in av.library_versions["libavcodec"])
    checks = [Check(name="PyAV", status="ok", found=f"{av.__version__}, libavcodec {ffmpeg}", meaning="reads videos")]
    return checks + [check_codec(codec, encoder) for codec, encoder in CODECS.items()]


def check_codec(codec: str, encoder: str) -> Check:
    """Encode a clip of known colours and decode it again; nothing less shows that a codec works."""
    levels = np.linspace(40, 200, 8).round()
    frames = np.broadcast_to(levels[:, None, None, None], (8, 3, 64, 64)).astype(np.uint8)
    try:
        av.Codec(codec, "r")
    except ValueError:
        return _codec_problem(codec, "no decoder")
    with tempfile.TemporaryDirectory() as folder:
        try:
            path = write_video(Path(folder) / "clip.mkv", frames, 10, codec=encoder)
        except ValueError as error:
            return Check(
                name=f"codec {codec}",
                status="warn",
                found=f"a decoder, but no way to make a test clip: {error}",
                meaning=f"videos in {codec} probably work",
            )
        try:
            with av.open(str(path)) as container:
                decoded = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
        except av.FFmpegError as error:
            return _codec_problem(codec, str(error))
    if len(decoded) != len(levels) or not np.allclose(decoded.mean((1, 2, 3)), levels, atol=8):
        return _codec_problem(codec, f"{len(decoded)} of {len(levels)} frames came back, or with other colours")
    return Check(name=f"codec {codec}", status="ok", found=f"{len(decoded)} frames made and read", meaning="works")


def _codec_problem(codec: str, found: str) -> Check:
    return Check(
        name=f"codec {codec}",
        status="fail" if codec == "h264" else "warn",
        found=found,
        meaning=f"videos in {codec} go to quarantine",
        action="pip install --force-reinstall --only-binary av av, or convert the videos to h264",
    )


def _check_torchcodec() -> list[Check]:
    if util.find_spec("torchcodec") is None:
        return [Check(name="torchcodec", status="off", found="not installed", meaning="PyAV decodes instead")]
    code = "import torchcodec.decoders; from importlib.metadata import version; print(version('torchcodec'))"
    problem, output = _run_python(code, {})
    if problem is None:
        return [Check(name="torchcodec", status="ok", found=output, meaning="can be used for decoding")]
    return [
        Check(
            name="torchcodec",
            status="warn",
            found=problem,
            meaning="installed, but it does not load; PyAV decodes instead",
            action="install the release that matches this torch, or remove it",
        )
    ]


def check_rendering() -> list[Check]:
    """Render a picture with MuJoCo without a screen, in another process: a broken driver ends the process."""
    name = "OpenGL (MuJoCo)"
    if util.find_spec("mujoco") is None:
        meaning = "Meta-World cannot run; the bundled world needs no OpenGL"
        return [
            Check(
                name=name,
                status="off",
                found="mujoco is not installed",
                meaning=meaning,
                action="pip install 'vidreward[metaworld]'",
            )
        ]
    problems = []
    for backend in dict.fromkeys((os.environ.get("MUJOCO_GL", "egl"), "egl", "osmesa")):
        problem, version = _run_python(_RENDER, {"MUJOCO_GL": backend})
        if problem is None:
            found = f"mujoco {version} renders with MUJOCO_GL={backend}"
            action = "" if os.environ.get("MUJOCO_GL") == backend else f"set MUJOCO_GL={backend}"
            return [Check(name=name, status="ok", found=found, meaning="Meta-World can be recorded", action=action)]
        problems.append(f"{backend}: {problem}")
    return [
        Check(
            name=name,
            status="warn",
            found="; ".join(problems),
            meaning="MuJoCo cannot render without a screen, so Meta-World cannot be recorded",
            action="install EGL (Debian, Ubuntu: apt-get install libegl1 libgl1-mesa-dri), then run doctor again",
        )
    ]


def _run_python(code: str, environment: dict[str, str], timeout: float = 60.0) -> tuple[str | None, str]:
    """Run code in another process; return what went wrong (None: nothing) and what it printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env={**os.environ, **environment},
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"no answer in {timeout:.0f} s", ""
    if done.returncode == 0:
        return None, done.stdout.strip()
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}", ""
    lines = [
        line for line in done.stderr.splitlines() if line.strip() and not line.startswith(("Exception ignored", " "))
    ]
    errors = [line for line in lines if re.match(r"[\w.]*(Error|Exception)\b", line)]
    return (errors or lines or [f"exit code {done.returncode}"])[0 if errors else -1][:200], ""


def _check_extras() -> list[Check]:
    checks = []
    requirements = metadata.requires("vidreward") or []
    for extra in metadata.metadata("vidreward").get_all("Provides-Extra") or []:
        needed = [
            match[0]
            for line in requirements
            if re.search(rf"extra\s*==\s*['\"]{re.escape(extra)}['\"]", line) and (match := re.match(r"[\w.-]+", line))
        ]
        versions = {package: _version(package) for package in needed}
        found = ", ".join(f"{package} {version or 'missing'}" for package, version in versions.items())
        complete = all(versions.values())
        checks.append(
            Check(
                name=f"extra {extra}",
                status="ok" if complete else "off",
                found=found,
                meaning="installed" if complete else "optional, not installed",
                action="" if complete else f"pip install 'vidreward[{extra}]'",
            )
        )
    return checks


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_disk() -> list[Check]:
    cache = Path(os.environ.get("VIDREWARD_CACHE", Path.home() / ".cache" / "vidreward"))
    return [check_space("disk for the frame cache", cache), check_space("disk for runs", Path("runs"))]


def check_space(name: str, path: Path) -> Check:
    """Look at the free space where a folder is, or would be made, and whether it can be written."""
    folder = path.absolute()
    while not folder.exists():
        folder = folder.parent
    free_gb = shutil.disk_usage(folder).free / 1e9
    found = f"{free_gb:.1f} GB free at {path}"
    if not os.access(folder, os.W_OK):
        return Check(
            name=name,
            status="fail",
            found=f"{folder} cannot be written",
            meaning="nothing can be kept there",
            action="choose another folder, or change its permissions",
        )
    if free_gb < MINIMUM_FREE_GB:
        return Check(
            name=name,
            status="warn",
            found=found,
            meaning=f"less than {MINIMUM_FREE_GB:g} GB: caching a data set may fail",
            action="free space, or choose another folder",
        )
    return Check(name=name, status="ok", found=found, meaning="enough to start")
