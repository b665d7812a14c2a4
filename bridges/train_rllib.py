"""Train the learned roles of a market with RLlib's PPO: the same configurations, run folder and report as
`python -m jaxarena.train`.

Belongs here: the command line, and what a configuration means to RLlib. Does not belong here: sampling
(`bridges.rllib`), judging and reporting (`jaxarena.experiment`).
"""

import argparse
import dataclasses
import functools
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bridges.markets import require, role_of
from jaxarena.command import BAD_INPUT, FAILED, INTERRUPTED, OK, Parser, fail, say
from jaxarena.env.roles import Role
from jaxarena.experiment.config import ExperimentConfig, dump_config, load_config
from jaxarena.experiment.files import read_json, write_json
from jaxarena.experiment.markets import build_market
from jaxarena.experiment.results import is_finished, write_evaluation, write_train_summary
from jaxarena.experiment.run import RunFolder, create_run, open_run, read_run
from jaxarena.experiment.tracking import JsonlTracker, ProgressTracker, Trackers, follow, require_backends
from jaxarena.learn.ppo import PPOConfig
from jaxarena.train import find_config, sources, stop_signal

PROGRAM = "bridges.train_rllib"
#: Settings of the native learner that RLlib's has no equal of, and the value that leaves them out.
_WITHOUT_EQUAL = {
    "normalize_rewards": False,
    "clip_value": False,
    "adam_eps": PPOConfig().adam_eps,
    "chunk_rows": None,
}

_EPILOG = """\
examples:
  python -m bridges.train_rllib configs/rllib_ppo.yaml
  python -m bridges.train_rllib configs/rllib_ppo.yaml ppo.lr=1e-4 seed=7 --mode fused
  python -m bridges.train_rllib configs/rllib_ppo.yaml --env-runners 2 --learners 2
  python -m bridges.train_rllib --resume runs/rllib_ppo__s0__20300101-120000

The run folder and report are those of jaxarena.train. Ctrl-C saves and stops. A resumed run goes on with the same
weights and counters, in new episodes.

exit codes: 0 done, 1 failed in mid-run, 2 bad input, 130 stopped by Ctrl-C.
"""


@dataclasses.dataclass(frozen=True)
class RllibOptions:
    """How RLlib runs, apart from what is learned."""

    mode: str = "rollout"
    policy_backend: str = "auto"
    env_runners: int = 0  # actors that sample; 0: the driver does
    learners: int = 0  # actors that learn; 0: the driver does


@dataclasses.dataclass(frozen=True)
class Position:
    """How far a run has come."""

    iterations: int = 0
    agent_steps: int = 0
    wall_s: float = 0.0  # sessions added up, building apart
    compile_s: float = 0.0  # building the algorithm, which compiles

    def as_summary(self) -> dict[str, Any]:
        """The `train` part of `summary.json`."""
        rate = self.agent_steps / self.wall_s if self.wall_s else None
        own = dataclasses.asdict(self)
        return {"agent_steps": own.pop("agent_steps"), "agent_steps_per_s": rate} | own


def rllib_config(config: ExperimentConfig, options: RllibOptions) -> Any:
    """RLlib's `PPOConfig` of an experiment, after `use_batched`.

    Raises:
        ValueError: a setting that RLlib cannot honour, with the way out.
    """
    from ray.rllib.algorithms.ppo import PPOConfig as RllibPPOConfig  # noqa: PLC0415 - an optional package
    from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig  # noqa: PLC0415

    from bridges.rllib import policy_mapping, register_market, use_batched  # noqa: PLC0415

    _check(config, options)
    ppo = config.ppo
    market_steps = ppo.rollout_length * config.train.markets
    total = iterations_of(config) * market_steps
    name = register_market(f"{config.name}-v0", functools.partial(_build_from_text, dump_config(config)))
    wanted = math.ceil(market_steps * _largest_group(config) / ppo.minibatches)
    share = market_steps // max(1, options.learners)
    rllib = (
        RllibPPOConfig()
        .environment(name)
        .env_runners(
            num_env_runners=options.env_runners,
            num_envs_per_env_runner=config.train.markets // max(1, options.env_runners),
            rollout_fragment_length=ppo.rollout_length,
            sample_timeout_s=600.0,
        )
        .learners(num_learners=options.learners)
        .multi_agent(policies=list(config.groups), policy_mapping_fn=policy_mapping(dict(config.groups)))
        .rl_module(
            model_config=DefaultModelConfig(
                fcnet_hiddens=list(ppo.hidden), fcnet_activation=ppo.activation, vf_share_layers=False
            )
        )
        .training(
            train_batch_size_per_learner=share,
            minibatch_size=min(share, math.ceil(wanted / max(1, options.learners))),
            num_epochs=ppo.epochs,
            lr=[[0, ppo.lr], [total, 0.0]] if ppo.anneal_lr else ppo.lr,
            gamma=ppo.gamma,
            lambda_=ppo.gae_lambda,
            clip_param=ppo.clip_eps,
            vf_loss_coeff=ppo.vf_coef,
            vf_clip_param=math.inf,
            entropy_coeff=float(ppo.ent_coef),
            use_kl_loss=False,
            grad_clip=ppo.max_grad_norm,
            grad_clip_by="global_norm",
        )
        .debugging(seed=config.seed, log_level="ERROR")
    )
    clip = ppo.observation_clip if ppo.normalize_observations and options.mode != "episodes" else None
    return use_batched(rllib, options.mode, options.policy_backend, clip)  # type: ignore[arg-type]


def iterations_of(config: ExperimentConfig) -> int:
    """PPO updates of the whole run."""
    return max(1, math.ceil(config.train.agent_steps / steps_of_iteration(config)))


def steps_of_iteration(config: ExperimentConfig) -> int:
    """Agent steps of one PPO update, of dead agents too."""
    return config.ppo.rollout_length * config.train.markets * sum(role.count for role in _learned(config))


def record_of(result: Mapping[str, Any], config: ExperimentConfig) -> dict[str, Any]:
    """One line of `metrics.jsonl` from RLlib's result, under the names of the native trainer."""
    sampled, learned = result["env_runners"], result["learners"]
    returns = sampled.get("agent_episode_returns_mean", {})
    record: dict[str, Any] = {}
    for role in (role.name for role in _learned(config)):
        own = [value for agent, value in returns.items() if role_of(agent) == role]
        record[f"return/{role}"] = float(np.mean(own)) if own else float("nan")
    for group in config.groups:
        for name, theirs in (
            ("loss", "total_loss"),
            ("policy_loss", "policy_loss"),
            ("value_loss", "vf_loss"),
            ("entropy", "entropy"),
            ("explained_variance", "vf_explained_var"),
            ("approx_kl", "mean_kl_loss"),
            ("grad_norm", "gradients_default_optimizer_global_norm"),
        ):
            if theirs in learned[group]:
                record[f"{name}/{group}"] = float(learned[group][theirs])
    record["episodes"] = float(sampled.get("num_episodes", 0))
    record["episode_length"] = float(sampled.get("episode_len_mean", float("nan")))
    first = learned[next(iter(config.groups))]
    record["lr"] = float(first.get("default_optimizer_learning_rate", float("nan")))
    return record


class Checkpoints:
    """RLlib's own checkpoints, `checkpoints/rllib_<agent steps>/`; a folder of that name is always complete."""

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep

    def save(self, algorithm: Any, position: Position) -> None:
        """Write the state of an algorithm, then delete all but the last `keep`."""
        part = self.folder / ".part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        algorithm.save_to_path(str(part.resolve() / "algorithm"))
        write_json(part / "position.json", dataclasses.asdict(position))
        target = self.folder / f"rllib_{position.agent_steps:012d}"
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        for old in self.all()[: -self.keep]:
            shutil.rmtree(old)

    def restore(self, algorithm: Any) -> Position:
        """Read the last one; the start where there is none."""
        if not self.all():
            return Position()
        last = self.all()[-1]
        algorithm.restore_from_path(str(last.resolve() / "algorithm"))
        return Position(**read_json(last / "position.json"))

    def all(self) -> list[Path]:
        """Complete ones, oldest first."""
        return sorted(self.folder.glob("rllib_*"))


def train(
    config: ExperimentConfig, folder: RunFolder, options: RllibOptions, *, resume: bool = False
) -> tuple[Any, Position, bool]:
    """Train to the end or until Ctrl-C.

    Returns:
        The algorithm, how far it came, and whether that is the end.
    """
    begun = time.perf_counter()
    algorithm = rllib_config(config, options).build_algo()
    checkpoints = Checkpoints(folder.checkpoints, config.train.keep_checkpoints)
    position = checkpoints.restore(algorithm) if resume else Position()
    position = dataclasses.replace(position, compile_s=position.compile_s + time.perf_counter() - begun)
    total, period = iterations_of(config), config.train.updates_per_chunk
    per_iteration = steps_of_iteration(config)
    step = position.iterations * per_iteration
    shown = tuple(f"return/{role}" for role in (role.name for role in _learned(config)))
    progress = ProgressTracker(total * per_iteration, step, shown)
    started = saved = time.perf_counter()
    before_s, records = position.wall_s, list[dict[str, Any]]()
    with stop_signal() as stop, Trackers(JsonlTracker(folder.metrics, step), progress) as trackers:
        while position.iterations < total and not stop.is_set():
            result = algorithm.train()
            records.append(record_of(result, config))
            now, iterations = time.perf_counter(), position.iterations + 1
            position = dataclasses.replace(
                position,
                iterations=iterations,
                agent_steps=_agent_steps(result),
                wall_s=before_s + now - started,
            )
            if iterations % period == 0 or iterations == total:
                trackers.log(iterations * per_iteration, _mean(records))
                records.clear()
            if now - saved >= config.train.checkpoint_every_s:
                checkpoints.save(algorithm, position)
                saved = time.perf_counter()
        checkpoints.save(algorithm, position)
    return algorithm, position, position.iterations == total


def start_ray(options: RllibOptions) -> None:
    """Start Ray on this machine, or join the cluster that `RAY_ADDRESS` names; before JAX, whose threads do not
    survive the fork.
    """
    require("ray.rllib", "rllib")
    import ray  # noqa: PLC0415 - an optional package
    import torch  # noqa: PLC0415

    torch.set_num_threads(1)  # layers this small lose more by sharing out work than they gain
    if not ray.is_initialized():
        local = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": 1 + options.env_runners + options.learners}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", **local)


def evaluate(config: ExperimentConfig, algorithm: Any) -> Any:
    """Judge the policies as the native trainer does, from copies in JAX."""
    from bridges.rllib.connectors import ObservationsToModule  # noqa: PLC0415
    from bridges.rllib.policy import export  # noqa: PLC0415
    from bridges.rllib.rollout import Actions, Collector  # noqa: PLC0415
    from bridges.rllib.seating import Seating  # noqa: PLC0415
    from jaxarena.experiment.evaluate import evaluate as judge  # noqa: PLC0415

    algorithm.env_runner_group.sync_weights(from_worker_or_learner_group=algorithm.learner_group, inference_only=True)
    rllib, runner = algorithm.config, algorithm.env_runner
    pieces = runner._env_to_module[ObservationsToModule]
    clip = pieces[0].observation_clip if pieces else None
    env, _ = build_market(config, "train")
    seating = Seating(env, rllib.policy_mapping_fn)
    collector = Collector(seating, 1, Actions(rllib.normalize_actions, rllib.clip_actions), clip)
    weights = {
        group.name: export(runner.module[group.name], group.action_space, group.obs_size) for group in seating.groups
    }
    moments = pieces[0].moments.get() if clip is not None else {}
    return judge(config, _Copies(collector), {"weights": weights, "moments": moments})


class _Copies:
    """Acts with copies of RLlib's modules."""

    def __init__(self, collector: Any) -> None:
        self._collector = collector

    def policy(self, policies: Mapping[str, Any], deterministic: bool = False) -> Any:
        return self._collector.policy(policies["weights"], policies["moments"], deterministic)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    command = None if arguments is None else ["python", "-m", PROGRAM, *arguments]
    again = ""
    try:
        config, folder, rllib = _open(options, command)
        if is_finished(folder):
            say(f"{folder.path} is finished already; its report is {folder.report}")
            return OK
        again = f"; go on with: python -m {PROGRAM} --resume {folder.path}"
        with follow(config, folder):
            return _run(config, folder, rllib, resume=options.resume is not None, again=again)
    except (ValueError, ImportError) as error:
        return fail(f"error: {error}", BAD_INPUT)
    except OSError as error:
        return fail(f"error: cannot write the run's files: {error}; free some space{again}", FAILED)
    except KeyboardInterrupt:
        return fail(f"stopped{again}", INTERRUPTED)


def _parser() -> Parser:
    parser = Parser(
        prog=f"python -m {PROGRAM}",
        description="Train the learned roles of a market with RLlib's PPO, evaluate them, and write a report.",
        epilog=_EPILOG,
    )
    default = RllibOptions()
    parser.add_argument(
        "settings", nargs="*", metavar="CONFIG.yaml | key.path=value", help="a file, and settings laid over it"
    )
    parser.add_argument("--mode", choices=("episodes", "rollout", "fused"), default=default.mode)
    parser.add_argument("--policy-backend", choices=("auto", "torch", "jax"), default=default.policy_backend)
    parser.add_argument("--env-runners", type=int, default=default.env_runners, metavar="N", help="sampling actors")
    parser.add_argument("--learners", type=int, default=default.learners, metavar="N", help="learning actors")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this folder, as it was configured")
    return parser


def _open(options: argparse.Namespace, command: list[str] | None) -> tuple[ExperimentConfig, RunFolder, RllibOptions]:
    """Configuration, folder and options of a new or resumed run. Bad input leaves nothing behind."""
    from jaxarena.experiment.evaluate import check_evaluation  # noqa: PLC0415

    if options.resume is not None:
        if options.settings:
            raise ValueError(f"--resume goes on with the run's own config.yaml; remove {' '.join(options.settings)}")
        folder, config = read_run(Path(options.resume))
        rllib = RllibOptions(**read_json(folder.path / "rllib.json"))
        require_backends(config.tracking)
        open_run(folder.path, command)
        start_ray(rllib)
        return config, folder, rllib
    rllib = RllibOptions(options.mode, options.policy_backend, options.env_runners, options.learners)
    path, overrides = sources(options.settings or [str(find_config("rllib_ppo"))])
    config = load_config(path, overrides)
    require_backends(config.tracking)
    _check(config, rllib)
    start_ray(rllib)
    rllib_config(config, rllib)
    check_evaluation(config)
    folder = create_run(config, command, program=PROGRAM)
    write_json(folder.path / "rllib.json", dataclasses.asdict(rllib))
    return config, folder, rllib


def _run(config: ExperimentConfig, folder: RunFolder, options: RllibOptions, *, resume: bool, again: str) -> int:
    """Train, evaluate, report."""
    logging.getLogger("ray").setLevel(logging.ERROR)
    say(f"run folder: {folder.path}")
    algorithm, position, done = train(config, folder, options, resume=resume)
    try:
        if not done:
            return fail(f"stopped after {position.agent_steps:,} agent steps, the state is saved{again}", INTERRUPTED)
        write_train_summary(folder, position.as_summary())
        say(f"trained {position.agent_steps:,} agent steps in {position.wall_s:.1f} s; evaluating")
        write_evaluation(folder, evaluate(config, algorithm))
    finally:
        algorithm.stop()
    say(f"report: {folder.report}")
    return OK


def _check(config: ExperimentConfig, options: RllibOptions) -> None:
    """Raise ValueError for what RLlib cannot honour."""
    without = [name for name, value in _WITHOUT_EQUAL.items() if getattr(config.ppo, name) != value]
    if without:
        remedy = " ".join(f"ppo.{name}={_yaml(_WITHOUT_EQUAL[name])}" for name in without)
        raise ValueError(f"RLlib's PPO has no equal of ppo.{', ppo.'.join(without)}; set {remedy}")
    if options.mode == "episodes" and config.ppo.normalize_observations:
        raise ValueError(
            "mode 'episodes' leaves observations to RLlib's connectors; set ppo.normalize_observations=false"
        )
    if config.seeds != 1:
        raise ValueError(f"seeds: RLlib trains one seed in a run, got {config.seeds}; set seeds=1 and start several")
    for name, count in (("--env-runners", options.env_runners), ("--learners", options.learners)):
        if count < 0 or config.train.markets % max(1, count):
            raise ValueError(f"{name}: got {count}, which does not divide train.markets={config.train.markets}")


def _learned(config: ExperimentConfig) -> list[Role]:
    return [role for role in config.market.roles if role.learned]


def _largest_group(config: ExperimentConfig) -> int:
    counts = {role.name: role.count for role in config.market.roles}
    return max(sum(counts[role] for role in roles) for roles in config.groups.values())


def _build_from_text(text: str) -> Any:
    """The training market of a configuration that travels to actors as text."""
    import tempfile  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.yaml"
        path.write_text(text, encoding="utf-8")
        return build_market(load_config(path), "train")


def _agent_steps(result: Mapping[str, Any]) -> int:
    return int(sum(result["env_runners"]["num_agent_steps_sampled_lifetime"].values()))


def _mean(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Means over a chunk; numbers that an iteration does not have are left out."""
    means = {}
    for name in records[0]:
        values = np.asarray([record[name] for record in records], np.float64)
        known = values[~np.isnan(values)]
        means[name] = float(known.sum() if name == "episodes" else known.mean()) if known.size else float("nan")
    return means


def _yaml(value: Any) -> str:
    return {None: "null", False: "false", True: "true"}.get(value, str(value))


if __name__ == "__main__":
    sys.exit(main())
