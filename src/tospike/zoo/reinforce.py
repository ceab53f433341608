"""Training actors by reinforcement with Stable-Baselines3, and taking their checkpoints into the zoo."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from tospike import zoo
from tospike.errors import DataError, TrainingError, missing_extra
from tospike.files import replacing
from tospike.tasks.control import Control
from tospike.tasks.environments import make
from tospike.tasks.episodes import Episodes
from tospike.zoo.actors import ActorRecipe

FIRST_SEED = 1000  # of the episodes that choose the best checkpoint; others score it


def folder_of(entry: ActorRecipe, runs: Path) -> Path:
    """Return where the training of a recipe keeps its files: ``best.zip``, ``last.zip``, ``buffer.pkl`` and ``log.jsonl``."""
    return runs / f"{entry.environment}-{entry.seed}"


def train(entry: ActorRecipe, runs: Path, *, resume: bool = True) -> Path:
    """Train an actor until it is good enough or its steps are spent, and return the best checkpoint.

    The best one has the highest mean less standard deviation of the returns. A training that was interrupted goes on from its last
    evaluation, with the transitions that it had seen; its random numbers are others than those of a training in one piece.

    Args:
        entry: The recipe.
        runs: Folder for the folder of the training.
        resume: Go on from the last evaluation, if there was one.

    Raises:
        MissingExtraError: Stable-Baselines3, gymnasium or MuJoCo is not installed.
    """
    try:
        from stable_baselines3 import TD3
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.noise import NormalActionNoise
    except ImportError as error:
        raise missing_extra("stable_baselines3", "control", "training actors") from error
    folder = folder_of(entry, runs)
    log, last, buffer = folder / "log.jsonl", folder / "last.zip", folder / "buffer.pkl"
    environment = make(entry.environment, {})
    if resume and last.exists() and buffer.exists():
        model = TD3.load(last, env=environment, device="cpu")
        model.load_replay_buffer(buffer)
    else:
        log.unlink(missing_ok=True)
        model = TD3(
            "MlpPolicy", environment, learning_rate=entry.lr, batch_size=entry.batch_size, learning_starts=entry.learning_starts,
            buffer_size=entry.steps, action_noise=NormalActionNoise(np.zeros(entry.outputs), entry.noise * np.ones(entry.outputs)),
            policy_kwargs={"net_arch": list(entry.widths)}, seed=entry.seed, device="cpu",
        )  # fmt: skip
    rows = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    best = max((row["mean"] - row["std"] for row in rows), default=-np.inf)
    began = time.monotonic()

    class Keep(BaseCallback):  # type: ignore[misc]
        """Scores the actor from time to time, keeps the best one, and stops when it is good enough."""

        best_yet = best

        def _on_step(self) -> bool:
            if self.num_timesteps % entry.every:
                return True
            scores = scored(Control.from_sb3(self.model, entry.environment), entry.episodes, FIRST_SEED)
            row = {"steps": self.num_timesteps, "mean": scores["return"], "std": scores["std"], "low": scores["lowest"]}
            with log.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row | {"s": round(time.monotonic() - began)}) + "\n")
            if row["mean"] - row["std"] > self.best_yet:
                self.best_yet = row["mean"] - row["std"]
                _written(self.model.save, folder / "best.zip")
            _written(self.model.save, last)
            _written(self.model.save_replay_buffer, buffer)
            return self.best_yet <= entry.enough

    left = entry.steps - model.num_timesteps
    if left > 0 and best <= entry.enough:
        folder.mkdir(parents=True, exist_ok=True)
        model.learn(left, callback=Keep(), reset_num_timesteps=model.num_timesteps == 0)
    return folder / "best.zip"


def _written(save: Any, path: Path) -> None:
    with replacing(path) as written:
        save(written)


def scored(control: Control, episodes: int, first_seed: int = 0) -> dict[str, float]:
    """Return the scores of the network itself; see `tospike.tasks.episodes.Episodes.scores`."""
    played = Episodes(control, range(first_seed, first_seed + episodes))
    for _ in played.decisions(control.answer):
        pass
    return played.scores()


def export(entry: ActorRecipe, checkpoint: Path, folder: Path = zoo.WEIGHTS) -> tuple[Path, dict[str, float]]:
    """Write the actor of a checkpoint as a network of the zoo, with the return that it reaches on seeds which did not choose it.

    Args:
        entry: The recipe that trained it.
        checkpoint: File that `train` wrote.
        folder: Folder for the weights.

    Returns:
        The file, and the scores, which stand in its metadata too.

    Raises:
        DataError: There is no such checkpoint, or it is of another network.
        TrainingError: The return is below the target of the recipe.
        MissingExtraError: Stable-Baselines3, gymnasium or MuJoCo is not installed.
    """
    try:
        from stable_baselines3 import TD3
    except ImportError as error:
        raise missing_extra("stable_baselines3", "control", "reading its checkpoints") from error
    if not checkpoint.exists():
        raise DataError("There is no checkpoint", where=str(checkpoint), got="nothing", expected="a file that the training wrote",
                        remedy=f"Train first: tospike train {entry.name}")  # fmt: skip
    model = TD3.load(checkpoint, device="cpu", custom_objects={"buffer_size": 1})
    control = Control.from_sb3(model, entry.environment)
    scores = scored(control, entry.episodes)
    if scores["return"] < entry.target:
        raise TrainingError("The actor is below its target", where=str(checkpoint), got=f"{scores['return']:.1f}", expected=f"at least {entry.target:g}",
                            remedy="Train on, or with another seed.")  # fmt: skip
    notes = {key: f"{value:.4f}" for key, value in scores.items()}
    notes |= {"environment": entry.environment, "steps": str(model.num_timesteps), "episodes": str(entry.episodes)}
    ann = zoo.networks.build("actor", **entry.network_options)
    try:
        ann.load_state_dict(control.network.state_dict())
    except RuntimeError as error:
        raise DataError("The checkpoint is of another network", where=str(checkpoint), got=str(error).splitlines()[-1].strip(),
                        expected=f"the actor of {entry.name}", remedy="Name the checkpoint of this recipe.") from error  # fmt: skip
    return zoo.save(ann, entry.name, folder, notes), scores
