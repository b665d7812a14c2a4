"""One configuration, several trainers: what each learns and how fast, native PPO beside RLlib's.

    python -m benchmarks.native_vs_rllib [CONFIG.yaml] [key.path=value ...] [--quick] [--json PATH]

Every trainer gets the same markets, network, epochs, rows per minibatch and number of agent steps. A rate is the median
over updates; building and compiling is reported apart. Returns are means over the last quarter of the run, of a policy
that still explores; the seed is the same, the random numbers are not.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bridges.train_rllib import RllibOptions, iterations_of, record_of, rllib_config, start_ray, steps_of_iteration
from jaxarena.experiment.config import ExperimentConfig, load_config
from jaxarena.experiment.training import Trainer
from jaxarena.train import find_config, sources


def native(config: ExperimentConfig) -> dict[str, Any]:
    """`jaxarena.learn.ppo` on the configuration."""
    begun = time.perf_counter()
    trainer = Trainer(config)
    state, chunk = trainer.init(), trainer.compile_chunk()
    build_s = time.perf_counter() - begun
    seconds: list[float] = []
    returns: list[Mapping[str, Any]] = []
    for _ in range(trainer.num_chunks):
        begun = time.perf_counter()
        state, metrics = chunk(state)
        seconds.append((time.perf_counter() - begun) / trainer.updates_per_chunk)
        returns += [
            {role: float(values["episode_return"][i]) for role, values in metrics["role"].items()}
            for i in range(trainer.updates_per_chunk)
            if metrics["episodes"][i]
        ]
    return _row("native", config, trainer.ppo.agent_steps_per_update, build_s, seconds, returns)


def rllib(config: ExperimentConfig, options: RllibOptions) -> dict[str, Any]:
    """RLlib's PPO on the configuration, in one of the modes of `use_batched`."""
    begun = time.perf_counter()
    algorithm = rllib_config(config, options).build_algo()
    build_s = time.perf_counter() - begun
    roles = [role.name for role in config.market.roles if role.learned]
    seconds: list[float] = []
    returns: list[Mapping[str, Any]] = []
    for _ in range(iterations_of(config)):
        begun = time.perf_counter()
        record = record_of(algorithm.train(), config)
        seconds.append(time.perf_counter() - begun)
        if record["episodes"]:
            returns.append({role: record[f"return/{role}"] for role in roles})
    algorithm.stop()
    return _row(f"rllib {options.mode}", config, steps_of_iteration(config), build_s, seconds, returns)


def run(config: ExperimentConfig, modes: Sequence[str]) -> list[dict[str, Any]]:
    """All trainers, one after the other."""
    start_ray(RllibOptions())
    rows = [native(config)] + [rllib(config, RllibOptions(mode=mode)) for mode in modes]
    for row in rows:
        returns = ", ".join(f"{role} {value:+.4f}" for role, value in row["returns"].items())
        print(
            f"{row['trainer']:14s} {row['agent_steps_per_s']:9,.0f} agent-steps/s   built in {row['build_s']:5.1f} s   "
            f"returns: {returns}"
        )
    return rows


def _row(
    trainer: str,
    config: ExperimentConfig,
    steps: int,
    build_s: float,
    seconds: Sequence[float],
    returns: Sequence[Mapping[str, float]],
) -> dict[str, Any]:
    last = returns[-max(1, len(returns) // 4) :]
    return {
        "trainer": trainer,
        "config": config.name,
        "markets": config.train.markets,
        "agent_steps": steps * iterations_of(config),
        "agent_steps_per_s": steps / statistics.median(seconds),
        "build_s": build_s,
        "returns": {role: float(np.mean([one[role] for one in last])) for role in last[0]} if last else {},
        "device": jax.devices()[0].device_kind,
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Native PPO beside RLlib's on one configuration.")
    parser.add_argument("settings", nargs="*", metavar="CONFIG.yaml | key.path=value")
    parser.add_argument("--quick", action="store_true", help="a fifth of the agent steps, mode rollout only")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    arguments = parser.parse_args()
    files = [text for text in arguments.settings if "=" not in text] or [str(find_config("rllib_ppo"))]
    path, overrides = sources([*files, *(text for text in arguments.settings if "=" in text)])
    config = load_config(path, overrides)
    if arguments.quick:
        config = load_config(path, [*overrides, f"train.agent_steps={config.train.agent_steps // 5}"])
    rows = run(config, ("rollout",) if arguments.quick else ("rollout", "fused"))
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
