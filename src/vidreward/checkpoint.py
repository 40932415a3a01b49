"""A checkpoint is a folder in the Hub's layout: config.json, model.safetensors, provenance.json, training_state/.

Folders are written under a temporary name and renamed, `last` in a run's folder is a pointer file; a reader never
sees half a checkpoint. Nothing is ever unpickled.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import Optimizer

from vidreward.config import from_json, to_json
from vidreward.files import (
    atomic_folder,
    is_temporary,
    recover_folder,
    remove_stale,
    write_json_atomic,
    write_text_atomic,
)
from vidreward.reward_model import LearnedRewardModel, RewardConfig, RewardModel
from vidreward.rewards import available, load_module
from vidreward.types import DataSpec

FORMAT = 1
_WANTED = "a folder that `vidreward train` wrote (runs/NAME), one of its checkpoints, or a Hub id owner/name"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How frames were made of the training videos, so that others are opened in the same way."""

    size: int | None = None
    """Side of the square frames; None: the size of `Description.data`."""
    resize: Literal["squash", "crop"] = "squash"
    load_size: int | None = None
    """Shorter side that was scaled to before the centre was cut out; None: that of the frames."""
    crop: tuple[float, float, float, float] | None = None
    fps: float | None = None
    """Rate the videos were resampled to; None: their own."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What config.json holds: all that is needed to build the model again, and to open videos for it."""

    reward: str
    """Name of the file in `rewards/`, or of the user's own file."""
    config: RewardConfig
    data: DataSpec
    preprocessing: Mapping[str, object]
    """How frames were made: the fields of `Preprocessing`."""


def save_checkpoint(
    path: Path,
    model: RewardModel,
    description: Description,
    *,
    provenance: Mapping[str, object],
    optimizer: Optimizer | None = None,
    state: Mapping[str, object] | None = None,
) -> None:
    """Write a checkpoint folder, whole or not at all.

    Args:
        path: The folder; replaced when it exists.
        model: Weights and buffers to write.
        description: Written to config.json.
        provenance: Where the weights come from: data fingerprint, step, seed.
        optimizer: Written to training_state/, for exact resume.
        state: Everything else that resuming needs.
    """
    with atomic_folder(path) as folder:
        header = {
            "format": FORMAT,
            "reward": description.reward,
            "config": to_json(description.config),
            "data": to_json(description.data),
            "preprocessing": to_json(description.preprocessing),
        }
        write_json_atomic(folder / "config.json", header)
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")
        statistics = {name: float(value) for name, value in model.named_buffers() if value.numel() == 1}
        record = {**_versions(), "statistics": _finite(statistics), **provenance}
        write_json_atomic(folder / "provenance.json", record)
        if optimizer is not None:
            (folder / "training_state").mkdir()
            save_file(_optimizer_tensors(optimizer), folder / "training_state" / "optimizer.safetensors")
            write_json_atomic(folder / "training_state" / "state.json", dict(state or {}))


def load(path: str | Path, *, device: str | torch.device = "cpu", model_file: str | Path | None = None) -> RewardModel:
    """Load a trained reward model, in evaluation mode.

    Args:
        path: A checkpoint folder, a run's folder (its last checkpoint), a Hub id `owner/name`, or the name of a reward
            that needs no training.
        device: Where to put it.
        model_file: The Python file of a model that is not part of vidreward; code is never named by a checkpoint.

    Raises:
        ValueError: The folder is not a checkpoint, or its tensors do not fit the model.
    """
    untrained = describe_untrained(path)
    if untrained is not None:
        return untrained.config.build(untrained.data).to(device).eval()
    folder = find_checkpoint(path)
    description = read_description(folder, model_file=model_file)
    model = build_model(description.config, description.data, f"{folder / 'config.json'}")
    load_weights(model, folder)
    return model.to(device).eval()


def describe(path: str | Path, *, model_file: str | Path | None = None) -> Description:
    """Say what a model is, and what frames it is for; the arguments and errors are those of `load`."""
    untrained = describe_untrained(path)
    return read_description(find_checkpoint(path), model_file=model_file) if untrained is None else untrained


def describe_untrained(path: str | Path) -> Description | None:
    """Describe a reward that needs no training, called by its name; None where something else is meant."""
    name = str(path).replace("-", "_")
    if name not in available() or Path(path).exists():
        return None
    recipe = load_module(name).recipe()
    size = recipe.data.size
    data = DataSpec(height=size, width=size, fps=10.0)
    if isinstance(recipe.reward.build(data), LearnedRewardModel):
        return None
    made = Preprocessing(size=size, resize=recipe.data.resize)
    return Description(reward=name, config=recipe.reward, data=data, preprocessing=to_json(made))


def build_model(config: RewardConfig, data: DataSpec, where: str) -> RewardModel:
    """Build a model and note the frame size it is for.

    Raises:
        ValueError: No network can have these settings; `where` says whose they are.
    """
    try:
        model = config.build(data)
    except (RuntimeError, ArithmeticError, LookupError, TypeError, MemoryError) as error:
        raise ValueError(f"{where}: no model can be built with these settings ({error}); correct {config}") from error
    model.frame_size = (data.height, data.width)
    return model


def find_checkpoint(path: str | Path) -> Path:
    """Return the checkpoint folder meant by a path or a Hub id.

    Raises:
        ValueError: There is none; the message says what was looked for.
    """
    folder = Path(path)
    if not folder.exists() and _is_hub_id(str(path)):
        return _download(str(path))
    if not folder.is_dir():
        found = "a file, not a folder" if folder.exists() else "not there"
        raise ValueError(f"{path} is {found}; give {_WANTED}")
    last = folder / "last"
    if last.is_file():
        name = last.read_text().strip()
        if not re.fullmatch(r"step-\d+", name):
            raise ValueError(f"{last} points to {name!r}; it must name a folder step-N of {folder / 'checkpoints'}")
        folder = folder / "checkpoints" / name
        recover_folder(folder)
    if not (folder / "model.safetensors").is_file():
        raise ValueError(f"{path} is not a checkpoint: no model.safetensors in it; give {_WANTED}")
    return folder


def _is_hub_id(name: str) -> bool:
    """Tell whether a name has the form owner/name of the Hub."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None


def _download(name: str) -> Path:
    """Fetch a checkpoint from the Hub, only the files a checkpoint has."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["config.json", "model.safetensors", "provenance.json"]))
    except (OSError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"{name} is no folder here, and could not be fetched from the Hub: {reason}; give {_WANTED}"
        ) from error


def read_description(folder: Path, *, model_file: str | Path | None = None) -> Description:
    """Read and check config.json.

    Raises:
        ValueError: It is not readable, of another format, or does not fit the model's configuration.
    """
    where = folder / "config.json"
    try:
        header = json.loads(where.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not readable: {error}; copy the checkpoint again") from error
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        version = header.get("format") if isinstance(header, dict) else None
        raise ValueError(f"{where}: format {version!r} is not {FORMAT}; use the version of vidreward that wrote it")
    missing = [key for key in ("reward", "config", "data", "preprocessing") if key not in header]
    if missing:
        raise ValueError(f"{where} lacks {', '.join(missing)}; copy the checkpoint again")
    # The name comes from a file that anyone may have written: it chooses among our own modules, never a path.
    if model_file is None and header["reward"] not in available():
        raise ValueError(
            f"{where}: {header['reward']!r} is not one of vidreward's reward models ({', '.join(available())}); if it "
            "is a model of your own, give its file (--model-file FILE.py, or model_file=)"
        )
    kind = type(load_module(model_file if model_file is not None else header["reward"]).recipe().reward)
    return Description(
        reward=str(header["reward"]),
        config=from_json(kind, header["config"], f"{where}: config"),
        data=from_json(DataSpec, header["data"], f"{where}: data"),
        preprocessing=to_json(from_json(Preprocessing, header["preprocessing"], f"{where}: preprocessing")),
    )


def load_weights(model: RewardModel, folder: Path) -> None:
    """Fill a model from a checkpoint's safetensors, with exactly its keys and shapes.

    Raises:
        ValueError: The file is damaged, or tensors are missing, surplus or misshaped; all are named.
    """
    where = folder / "model.safetensors"
    tensors = _read_tensors(where)
    wanted = model.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"surplus {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"{where} does not fit the model: {'; '.join(problems[:8])}{more}")
    model.load_state_dict(tensors)


def start_from(model: LearnedRewardModel, source: str) -> None:
    """Fill a new model with weights of vidreward, or with those it knows to read itself.

    Numbers that describe the videos at hand, such as their frame rate, stay as they are.

    Args:
        model: Freshly built for these videos.
        source: A run, a checkpoint or a Hub id owner/name of the same model; else what `model.initialise` takes.

    Raises:
        ValueError: There are no such weights, or they do not fit the model; all that does not is named.
    """
    path = Path(source)
    is_ours = (path / "last").is_file() or (path / "model.safetensors").is_file()
    if not is_ours and (path.exists() or not _is_hub_id(source)):
        model.initialise(source)
        return
    facts = {name: value.clone() for name, value in model.named_buffers() if value.dim() == 0}
    load_weights(model, find_checkpoint(source))
    for name, value in facts.items():
        model.get_buffer(name).copy_(value)


def restore_training(optimizer: Optimizer, folder: Path) -> dict[str, object]:
    """Fill an optimiser from training_state/ and return the rest of the state.

    Raises:
        ValueError: The checkpoint has no training state, or it is damaged.
    """
    state_file = folder / "training_state" / "state.json"
    if not state_file.is_file():
        raise ValueError(f"{folder} has no training_state/; training cannot go on from it")
    tensors = _read_tensors(folder / "training_state" / "optimizer.safetensors")
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        for name, tensor in tensors.items():
            number, key = name.split(".", 1)
            parameter = parameters[int(number)]
            if tensor.shape == parameter.shape:
                # the parameter's memory format, so that fused optimisers walk both alike
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            optimizer.state[parameter][key] = tensor
    except (OSError, ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"{state_file.parent} is damaged: {error}; delete {folder} or copy it again") from error
    if not isinstance(state, dict):
        raise ValueError(f"{state_file} is damaged: it holds no object; delete {folder} or copy it again")
    return state


@dataclass(frozen=True)
class RunFolder:
    """The folder of one training run: checkpoints/step-N, and `last`, which names the newest."""

    path: Path
    keep: int = 2
    """Checkpoints kept; older ones are deleted."""

    def newest(self) -> Path | None:
        """Return the newest whole checkpoint, or None."""
        return find_checkpoint(self.path) if (self.path / "last").is_file() else None

    def save(self, step: int, model: RewardModel, description: Description, **kwargs: object) -> Path:
        """Write checkpoints/step-N, point `last` at it, delete the oldest."""
        folder = self.path / "checkpoints" / f"step-{step:08d}"
        save_checkpoint(folder, model, description, **kwargs)  # type: ignore[arg-type]
        write_text_atomic(self.path / "last", folder.name + "\n")
        remove_stale(folder.parent)
        others = sorted(p for p in folder.parent.iterdir() if p.is_dir() and p != folder and not is_temporary(p))
        for old in others[: max(0, len(others) + 1 - self.keep)]:
            shutil.rmtree(old)
        return folder


def _read_tensors(where: Path) -> dict[str, Tensor]:
    try:
        return load_file(where)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{where} is damaged or missing: {error}; use another checkpoint of the run") from error


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return {
        f"{number}.{key}": value.detach().cpu().contiguous()
        for number, parameter in enumerate(parameters)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def _versions() -> dict[str, object]:
    names = ("vidreward", "torch", "av", "numpy")
    versions = {"python": platform.python_version(), **{name: version(name) for name in names}}
    return {"versions": versions, "git": _commit()}


def _commit() -> str | None:
    """Return the commit of the code that runs, where it is a git checkout."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _finite(statistics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if abs(value) < float("inf") else None for name, value in statistics.items()}
