"""A process that decodes files for the cache: a file that crashes or hangs FFmpeg takes down only this process.

Run as `python -m vidreward.data.worker`. It reads one JSON job a line on standard input and answers each with one
JSON line. It is started as a program rather than forked, so it shares no state and needs no guard in user scripts.
"""

from __future__ import annotations

import errno
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from vidreward.data.cache_file import write_cache_file
from vidreward.data.pixels import FrameSpec
from vidreward.data.sources import DiskSource, Footage, ImageFootage, VideoFootage

START_TIMEOUT = 120.0
"""Seconds that a process may take to start on a busy machine."""
READY = b"ready\n"


class WorkerError(Exception):
    """A worker crashed or took too long; the text says which, for the quarantine list."""


class Worker:
    """One decoding process, started when first needed and again after a crash."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, job: Mapping[str, object], timeout: float) -> dict[str, str]:
        """Do one job.

        Args:
            job: What `job_for` wrote.
            timeout: Seconds after which the process is killed.

        Raises:
            WorkerError: The process died or did not answer in time.
            OSError: No process can be started.
        """
        process = self.ready()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(job).encode() + b"\n")
            process.stdin.flush()
            line = read_line(process.stdout, time.monotonic() + timeout)
        except BrokenPipeError:
            line = b""
        except TimeoutError as error:
            self.close()
            raise WorkerError(f"decoding took more than {timeout:.0f} s and was stopped; re-encode the file") from error
        if not line.endswith(b"\n"):
            code = process.wait()
            self.close()
            raise WorkerError(f"decoding crashed ({describe_exit(code)}); re-encode or remove the file")
        result: dict[str, str] = json.loads(line)
        return result

    def ready(self) -> subprocess.Popen[bytes]:
        """Return the process, started if need be; its start does not count as a file's time."""
        if self.process is None:
            self.process = start()
            assert self.process.stdout is not None
            if read_line(self.process.stdout, time.monotonic() + START_TIMEOUT) != READY:
                code = self.process.wait()
                self.close()
                raise OSError(
                    f"a decoding process cannot start ({describe_exit(code)}); its own message is above, or run "
                    "python -m vidreward.data.worker to see it"
                )
        return self.process

    def kill(self) -> None:
        """Stop the process at once, from any thread; a job that runs ends with WorkerError."""
        if self.process is not None:
            self.process.kill()

    def close(self) -> None:
        """End the process and wait for it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
        self.process = None


def start() -> subprocess.Popen[bytes]:
    """Start a process that finds this package wherever the caller found it."""
    package_root = str(Path(__file__).parents[2])
    path = os.pathsep.join([package_root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "vidreward.data.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        process_group=0,  # Ctrl-C is the caller's to handle.
        env={**os.environ, "PYTHONPATH": path},
    )


def read_line(pipe: IO[bytes], deadline: float) -> bytes:
    """Read up to a line's end, or to the end of the pipe.

    Raises:
        TimeoutError: The deadline passed.
    """
    line = b""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            raise TimeoutError
        part = os.read(pipe.fileno(), 65536)
        if not part:
            break
        line += part
    return line


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def job_for(source: DiskSource, target: Path, key: str, content_key: str) -> dict[str, object]:
    """Write down what a worker needs to make one cache file."""
    cameras = {
        camera: {"files": [str(path) for path in footage.files], "kind": type(footage).__name__, **footage.timing}
        for camera, footage in source.footage.items()
    }
    return {
        "target": str(target),
        "key": key,
        "content_key": content_key,
        "cameras": cameras,
        "goal": None if source.goal_path is None else str(source.goal_path),
        "spec": source.spec.to_json(),
    }


def source_for(job: Mapping[str, Any]) -> DiskSource:
    """Open the files of a job."""
    given = job["spec"]
    spec = FrameSpec(
        size=given["size"] and tuple(given["size"]),
        resize=given["resize"],
        load_size=given.get("load_size"),
        crop=given["crop"] and tuple(given["crop"]),
    )
    footage: dict[str, Footage] = {}
    for camera, stored in job["cameras"].items():
        files = tuple(Path(name) for name in stored["files"])
        if stored["kind"] == VideoFootage.__name__:
            footage[camera] = VideoFootage(files[0], spec, stored["fps"], stored["rate"])
        else:
            footage[camera] = ImageFootage(files, spec, stored["fps"], stored["rate"])
    return DiskSource(footage, spec, None if job["goal"] is None else Path(job["goal"]))


def answer(job: Mapping[str, Any]) -> dict[str, str]:
    """Make one cache file; the answer is empty when that went well.

    "error" is the file's fault; "disk" is the cache folder's, and ends the whole run.
    """
    try:
        source = source_for(job)
        # Hashing after decoding proves that the frames are those of the content the key was made from.
        write_cache_file(
            Path(job["target"]), source, job["key"], check=lambda: source.hash_content() == job["content_key"]
        )
    except OSError as error:
        kind = "disk" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG) else "error"
        return {kind: str(error)}
    except (ValueError, MemoryError) as error:
        return {"error": str(error) or type(error).__name__}
    return {}


def main() -> None:
    """Answer jobs until standard input ends; anything else that prints goes to standard error."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    answers.write(READY)
    for line in sys.stdin.buffer:
        try:
            answers.write(json.dumps(answer(json.loads(line))).encode() + b"\n")
        except BrokenPipeError:
            return  # The caller was killed; the file it asked for is whole, and the next build finds it.


if __name__ == "__main__":
    main()
