"""Actors: their recipes, their training, and the weights that travel with the library."""

import json
from dataclasses import replace

import pytest
import torch
import yaml
from stable_baselines3 import TD3

from tospike import zoo
from tospike.cli import main
from tospike.errors import DataError, MissingExtraError, OptionError, TrainingError
from tospike.zoo import reinforce
from tospike.zoo.actors import ACTORS, ActorRecipe

TRAINED = [name for name in ACTORS if name in zoo.available()]


@pytest.fixture
def small(monkeypatch):
    entry = ActorRecipe(
        "pendulum-td3",
        "Pendulum-v1",
        3,
        1,
        target=-1e9,
        widths=(8, 8),
        steps=60,
        learning_starts=20,
        batch_size=8,
        every=20,
        episodes=1,
    )
    monkeypatch.setitem(ACTORS, entry.name, entry)
    return entry


def test_the_pendulum_is_there():
    assert "inverted-double-pendulum-td3" in TRAINED


@pytest.mark.parametrize("name", TRAINED)
def test_an_actor_reaches_its_target(name):
    control = zoo.control(name)
    scores, noted = reinforce.scored(control, 2), zoo.notes(name)
    assert scores["return"] >= ACTORS[name].target
    assert float(noted["return"]) >= ACTORS[name].target
    assert (noted["recipe"], noted["environment"], noted["episodes"]) == (name, control.name, "10")
    assert not zoo.load(name).training


def test_options_of_the_environment_are_passed_on():
    control = zoo.control("inverted-double-pendulum-td3", max_episode_steps=7)
    assert (control.limit, reinforce.scored(control, 1)["length"]) == (7, 7)


@pytest.mark.parametrize("name", ACTORS)
def test_recipes_say_what_is_trained(name):
    entry = ACTORS[name]
    assert (entry.widths, entry.lr, entry.batch_size, entry.learning_starts, entry.noise) == (
        (256, 256),
        {"walker2d-td3": 1e-3}.get(name, 3e-4),
        256,
        10_000,
        0.1,
    )
    assert entry.target == (9000 if "pendulum" in name else 2500)
    assert yaml.safe_load(entry.to_yaml())["environment"] == entry.environment
    with pytest.raises(OptionError, match="episodes"):
        replace(entry, episodes=0)


def test_training_keeps_the_best_and_goes_on(small, tmp_path):
    checkpoint = reinforce.train(small, tmp_path)
    folder = tmp_path / "Pendulum-v1-0"
    assert checkpoint == folder / "best.zip"

    def log():
        return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]

    assert [row["steps"] for row in log()] == [20, 40, 60]
    first = TD3.load(checkpoint, device="cpu").num_timesteps
    assert first == max(log(), key=lambda row: row["mean"] - row["std"])["steps"]
    reinforce.train(replace(small, steps=100), tmp_path)
    assert [row["steps"] for row in log()] == [20, 40, 60, 80, 100]
    assert TD3.load(folder / "last.zip", device="cpu").num_timesteps == 100
    reinforce.train(small, tmp_path, resume=False)
    assert [row["steps"] for row in log()] == [20, 40, 60]


def test_training_stops_when_it_is_good_enough(small, tmp_path):
    reinforce.train(replace(small, enough=-1e9), tmp_path)
    assert len((tmp_path / "Pendulum-v1-0" / "log.jsonl").read_text().splitlines()) == 1
    reinforce.train(replace(small, enough=-1e9), tmp_path)
    assert len((tmp_path / "Pendulum-v1-0" / "log.jsonl").read_text().splitlines()) == 1


def test_a_checkpoint_becomes_a_network_of_the_zoo(small, tmp_path):
    checkpoint = reinforce.train(small, tmp_path)
    path, scores = reinforce.export(small, checkpoint, tmp_path)
    assert path == tmp_path / "pendulum-td3.safetensors"
    control = zoo.control(small.name, tmp_path)
    assert reinforce.scored(control, 1) == pytest.approx(scores)
    assert float(zoo.notes(small.name, tmp_path)["return"]) == pytest.approx(scores["return"], abs=1e-3)
    model, x = TD3.load(checkpoint, device="cpu"), torch.randn(5, 3)
    torch.testing.assert_close(
        torch.from_numpy(model.predict(x.numpy(), deterministic=True)[0]),
        2 * zoo.load(small.name, tmp_path)(x).detach(),
    )
    with pytest.raises(TrainingError, match="below its target"):
        reinforce.export(replace(small, target=0), checkpoint, tmp_path / "other")
    assert not (tmp_path / "other").exists()
    with pytest.raises(DataError, match="another network"):
        reinforce.export(replace(small, widths=(8,)), checkpoint, tmp_path)
    with pytest.raises(DataError, match="no checkpoint"):
        reinforce.export(small, tmp_path / "nothing.zip", tmp_path)


def test_actors_on_the_command_line(small, tmp_path, capsys):
    assert main(["recipes"]) == 0
    assert "hopper-td3" in capsys.readouterr().out
    assert main(["recipes", "--name", "hopper-td3"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["environment"] == "Hopper-v4"
    assert main(["train", "pendulum-td3", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "pendulum-td3.safetensors").exists()
    assert main(["train", "pendulum-td3", "--out", str(tmp_path), "--epochs", "3"]) == 2
    assert "epochs" in capsys.readouterr().err
    assert main(["check", "inverted-double-pendulum-td3"]) == 0


def test_unknown_and_untrained_actors(small):
    with pytest.raises(OptionError, match="actor"):
        zoo.control("hopper")
    with pytest.raises(OptionError, match="no such network") as caught:
        zoo.control("pendulum-td3")
    assert caught.value.problem.remedy == "Train it: tospike train pendulum-td3"


def test_a_missing_package_is_named(small, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    for call in (lambda: reinforce.train(small, tmp_path), lambda: reinforce.export(small, tmp_path / "best.zip")):
        with pytest.raises(MissingExtraError, match="stable_baselines3"):
            call()
