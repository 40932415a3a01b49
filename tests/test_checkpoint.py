"""Checkpoints: whole or not at all, exactly what was saved, and nothing in them ever runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import vidreward
from dots import dot_episodes
from vidreward.checkpoint import (
    Description,
    RunFolder,
    find_checkpoint,
    load,
    read_description,
    restore_training,
    save_checkpoint,
)
from vidreward.optimizers import make_optimizer
from vidreward.rewards.hold_c import HoldC, HoldCConfig
from vidreward.scoring import score_episode
from vidreward.types import DataSpec

CONFIG = HoldCConfig(depth=14, num_filters=4, num_frames=8, embedding_dim=4)
SPEC = DataSpec(height=32, width=32, fps=10.0, tasks=("cross",))
DESCRIPTION = Description(reward="hold_c", config=CONFIG, data=SPEC, preprocessing={"size": 32, "crop": (0, 0, 1, 0.5)})


def make_model(seed: int = 0) -> HoldC:
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        model = HoldC(CONFIG)
        for parameter in model.parameters():  # a fresh head may be zero, and give all frames one score
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.normalizer.fill_(2.5)
    return model.eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_checkpoint(tmp_path / "ck", make_model(), DESCRIPTION, provenance={"step": 7})
    return tmp_path / "ck"


def edit(folder: Path, change: Callable[[dict], object]) -> None:  # type: ignore[type-arg]
    header = json.loads((folder / "config.json").read_text())
    change(header)
    (folder / "config.json").write_text(json.dumps(header))


# --- what was saved comes back ---------------------------------------------------------------------------------------


def test_scores_and_description_come_back(saved: Path) -> None:
    episode, model = dot_episodes(1)[0], make_model()
    again = vidreward.load(saved)
    assert not again.training
    assert again.frame_size == (32, 32)
    assert np.array_equal(score_episode(again, episode), score_episode(model, episode))
    description = read_description(saved)
    assert (description.reward, description.config, description.data) == ("hold_c", CONFIG, SPEC)
    assert description.preprocessing == {
        "size": 32,
        "resize": "squash",
        "load_size": None,
        "crop": [0.0, 0.0, 1.0, 0.5],
        "fps": None,
    }


def test_memory_format_is_not_saved(tmp_path: Path, saved: Path) -> None:
    model = make_model().to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "last", model, DESCRIPTION, provenance={})
    assert (tmp_path / "last" / "model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_provenance_says_where_weights_come_from(saved: Path) -> None:
    record = json.loads((saved / "provenance.json").read_text())
    assert record["step"] == 7
    assert record["versions"]["torch"] == version("torch")
    assert set(record["versions"]) == {"python", "vidreward", "torch", "av", "numpy"}
    assert record["statistics"]["normalizer"] == 2.5
    assert "git" in record


def test_saving_is_repeatable(tmp_path: Path, saved: Path) -> None:
    save_checkpoint(tmp_path / "again", make_model(), DESCRIPTION, provenance={"step": 7})
    for file in sorted(path.name for path in saved.iterdir()):
        assert (saved / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


@pytest.mark.parametrize("name", ["adam", "adamw", "momentum_bf16"])
def test_optimizer_state_comes_back(tmp_path: Path, name: str) -> None:
    model = make_model()
    optimizer = make_optimizer(model.parameters(), name, lr=0.1)  # type: ignore[arg-type]
    for _ in range(2):
        sum(parameter.square().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
        optimizer.step()
    save_checkpoint(tmp_path / "ck", model, DESCRIPTION, provenance={}, optimizer=optimizer, state={"step": 2})
    again = make_model()
    other = make_optimizer(again.parameters(), name, lr=0.1)  # type: ignore[arg-type]
    assert restore_training(other, tmp_path / "ck") == {"step": 2}
    for before, after in zip(model.parameters(), again.parameters(), strict=True):
        one, two = optimizer.state[before], other.state[after]
        assert len(one) == len(two) > 0
        assert all(torch.equal(one[key], two[key]) and one[key].dtype == two[key].dtype for key in one)


def test_a_run_keeps_its_newest_checkpoints(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.newest() is None
    for step in (1, 2, 30):
        run.save(step, make_model(), DESCRIPTION, provenance={})
    newest = run.newest()
    assert newest is not None
    assert newest.name == "step-00000030"
    assert [p.name for p in sorted(newest.parent.iterdir())] == ["step-00000002", "step-00000030"]
    assert find_checkpoint(tmp_path / "run") == newest
    assert find_checkpoint(newest) == newest
    run.save(3, make_model(), DESCRIPTION, provenance={})  # `last` was lost, say, and the run began again
    assert find_checkpoint(tmp_path / "run").name == "step-00000003"


# --- nothing in a checkpoint runs ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["evil.py", "/tmp/evil.py", "../evil.py", "os", "hold_c.py", "a.b", "", "hold_x", 3, None]
)
def test_a_checkpoint_never_names_code(saved: Path, monkeypatch: pytest.MonkeyPatch, name: object) -> None:
    trap = "raise SystemExit('a checkpoint ran code')\n"
    monkeypatch.chdir(saved)
    for path in (saved / "evil.py", saved.parent / "evil.py", saved / "hold_c.py"):
        path.write_text(trap)
    absolute = str(saved / "evil.py") if name == "/tmp/evil.py" else name
    edit(saved, lambda header: header.update(reward=absolute))
    with pytest.raises(ValueError, match=r"not one of vidreward's reward models \(hold_c, hold_r.*--model-file"):
        load(saved)


@pytest.mark.parametrize("name", ["../other", "/etc", "step-1/../../x", "checkpoints", "", "step-x", "step-1\nstep-2"])
def test_last_leads_nowhere_else(saved: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copytree(saved, tmp_path / "other")
    (run / "last").write_text(name)
    with pytest.raises(ValueError, match="must name a folder step-N"):
        load(run)


def test_no_pickle_is_read(saved: Path) -> None:
    torch.save({"a": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match="damaged"):
        load(saved)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.update(format=99), "format 99 is not 1; use the version"),
        (lambda header: header.pop("format"), "format None is not 1"),
        (lambda header: header.pop("data"), "lacks data"),
        (lambda header: header.pop("reward"), "lacks reward"),
        (lambda header: header["config"].update(marign=1), "did you mean 'margin'"),
        (lambda header: header["config"].update(depth="18"), "config.depth must be one of"),
        (lambda header: header["config"].update(num_filters=0), "no model can be built"),
        (lambda header: header["config"].update(num_filters=-4), "no model can be built"),
        (lambda header: header["config"].update(embedding_dim=8), r"is \(4, .*the model has \(8, "),
        (lambda header: header["data"].update(height="32"), "data.height must be"),
        (lambda header: header.update(preprocessing=[]), "preprocessing must be an object"),
        (lambda header: header["preprocessing"].update(size="big"), "preprocessing.size must be"),
        (lambda header: header["preprocessing"].update(resize="stretch"), "must be one of 'squash', 'crop'"),
        (lambda header: header["preprocessing"].update(code="x"), "no field 'code'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_tampered_config_is_refused(saved: Path, change: Callable[[dict], object], message: str) -> None:  # type: ignore[type-arg]
    edit(saved, change)
    with pytest.raises(ValueError, match=message) as error:
        load(saved)
    assert "config.json" in str(error.value) or "model.safetensors" in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", "[" * 100_000, '"\\ud800', b"\xff\xfe\x00"])
def test_what_is_no_config_is_refused(saved: Path, text: str | bytes) -> None:
    (saved / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ValueError, match=r"config\.json"):
        load(saved)


def test_tensors_that_do_not_fit_are_named(saved: Path) -> None:
    tensors = load_file(saved / "model.safetensors")
    names = list(tensors)
    weight = next(name for name in names if tensors[name].ndim == 4)
    changes: dict[str, dict[str, torch.Tensor]] = {
        f"missing {names[0]}": {name: tensors[name] for name in names[1:]},
        "surplus extra": {**tensors, "extra": torch.zeros(1)},
        f"{weight} is .*the model has": {**tensors, weight: torch.zeros(1, 2, 3)},
    }
    for message, changed in changes.items():
        save_file(changed, saved / "model.safetensors")
        with pytest.raises(ValueError, match=message):
            load(saved)
    save_file({"only": torch.zeros(1)}, saved / "model.safetensors")
    with pytest.raises(ValueError, match=r"and \d+ more"):
        load(saved)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file_is_refused(saved: Path, keep: int) -> None:
    whole = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(whole[:keep])
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged or missing"):
        load(saved)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("x")
    for path, message in (("empty", "no model.safetensors"), ("file", "a file"), ("a/b/c", "not there")):
        with pytest.raises(ValueError, match=rf"{message}.*vidreward train"):
            load(path)


@pytest.mark.slow
def test_a_hub_id_is_refused_offline(tmp_path: Path) -> None:
    code = "import vidreward\ntry: vidreward.load('owner/name')\nexcept ValueError as error: print(error)"
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=tmp_path, capture_output=True, text=True)
    assert "owner/name is no folder here, and could not be fetched from the Hub" in done.stdout, done.stderr


@pytest.mark.parametrize("damage", ["state", "tensors", "number", "absent"])
def test_damaged_training_state_is_refused(tmp_path: Path, damage: str) -> None:
    model = make_model()
    optimizer = make_optimizer(model.parameters(), "adam", lr=0.1)
    sum(parameter.sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    save_checkpoint(tmp_path, model, DESCRIPTION, provenance={}, optimizer=optimizer, state={"step": 2})
    state, tensors = tmp_path / "training_state" / "state.json", tmp_path / "training_state" / "optimizer.safetensors"
    if damage == "state":
        state.write_text("[1]")
    elif damage == "tensors":
        tensors.write_bytes(tensors.read_bytes()[:100])
    elif damage == "number":
        save_file({"9999.exp_avg": torch.zeros(1)}, tensors)
    else:
        shutil.rmtree(state.parent)
    with pytest.raises(ValueError, match=r"damaged|no training_state"):
        restore_training(optimizer, tmp_path)


# --- killed while it saves -------------------------------------------------------------------------------------------

SAVER = """
import sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_checkpoint import DESCRIPTION, make_model
from vidreward.checkpoint import RunFolder
models = [make_model(seed) for seed in range(2)]
step = 0
while True:
    step += 1
    RunFolder(Path({run!r})).save(step % 5, models[step % 5 % 2], DESCRIPTION, provenance=dict(step=step % 5))
    print(step, flush=True)
"""


@pytest.mark.slow
def test_killed_while_saving_leaves_a_whole_checkpoint(tmp_path: Path) -> None:
    run = tmp_path / "run"
    code = SAVER.format(tests=str(Path(__file__).parent), run=str(run))
    rng = np.random.default_rng(0)
    expected = [make_model(seed).state_dict() for seed in range(2)]
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()  # it has saved once
        time.sleep(float(rng.uniform(0, 0.5)))
        process.kill()
        process.communicate()
        newest = RunFolder(run).newest()
        assert newest is not None
        step = json.loads((newest / "provenance.json").read_text())["step"]
        assert newest.name == f"step-{step:08d}"
        weights = load(newest).state_dict()
        assert all(torch.equal(weights[name], tensor) for name, tensor in expected[step % 2].items())
