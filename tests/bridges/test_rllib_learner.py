"""From rollouts to gradient steps: rows against RLlib's own learner pipeline, advantages against their definition,
minibatches counted row by row.
"""

import dataclasses
import datetime
import functools
import itertools
import math
from collections import Counter, defaultdict

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import gymnasium
import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.policy.sample_batch import MultiAgentBatch, SampleBatch
from ray.rllib.utils.metrics import NUM_MODULE_STEPS_TRAINED
from ray.rllib.utils.minibatch_utils import ShardBatchIterator

from bridges.rllib import (
    BatchedMultiAgentEnvRunner,
    BatchedPPO,
    FastPPOTorchLearner,
    RolloutPPOTorchLearner,
    register_market,
    use_batched,
)
from bridges.rllib.connectors import RolloutToTrainBatch, gae
from bridges.rllib.fused import train_columns
from bridges.rllib.learner import ProportionalMinibatches
from bridges.rllib.played import Played
from bridges.rllib.ppo import TrainRows, joined
from bridges.rllib.rollout import GroupRows, RolloutBatch
from bridges.rllib.rows import RowMajor, rows_of
from tests.bridges import test_rllib_rollout as played
from tests.bridges.rllib_markets import planted, two_roles
from tests.reference.gae import advantages

pytestmark = pytest.mark.bridge

SAME = (Columns.OBS, Columns.ACTIONS, Columns.ACTION_DIST_INPUTS, Columns.ACTION_LOGP)


@functools.cache
def batches():
    """The two rollouts with a number in the place of each row's log-probability: agents can see and do the same."""
    numbers = itertools.count()
    found = []
    for batch in played.batches():
        groups = {}
        for name, rows in batch.groups.items():
            stamps = np.array([next(numbers) for _ in range(rows.logp.size)], np.float32)
            groups[name] = dataclasses.replace(rows, logp=stamps.reshape(rows.logp.shape))
        found.append(RolloutBatch(groups, batch.agents, batch.cut, batch.reset_t, batch.reset_e, batch.modules))
    return found


def episodes():
    """The two rollouts as RLlib's own runner would hand them over: episodes, cut at the end of each rollout."""
    seating, chunks, going_on = played.world()[0], [], {}
    for batch, truth in zip(batches(), played.replays(), strict=True):
        for market, t in itertools.product(range(played.MARKETS), range(len(truth["cut"]))):
            if market not in going_on:
                going_on[market] = MultiAgentEpisode(agent_to_module_mapping_fn=played.module_of)
                going_on[market].add_env_reset(observations=seen(seating, truth, "obs", t, market))
            episode, over = going_on[market], bool(truth["cut"][t, market])
            add_step(seating, episode, batch.groups, truth, t, market)
            if over:
                chunks.append(going_on.pop(market))
            elif t == len(truth["cut"]) - 1:
                chunks.append(episode)
                going_on[market] = episode.cut(len_lookback_buffer=0)
    return [chunk.to_numpy() for chunk in chunks]


def present(seating, truth, t, market):
    """Group, seat and name of the agents that act at a step."""
    for group in seating.groups:
        for seat, agent in enumerate(group.agents):
            if truth[group.name]["acted"][t, seat, market]:
                yield group.name, seat, agent


def seen(seating, truth, name, t, market):
    return {agent: truth[group][name][t, :, seat, market] for group, seat, agent in present(seating, truth, t, market)}


def add_step(seating, episode, groups, truth, t, market):
    """RLlib takes an episode whose agents were all cut off one by one for terminated; `__all__` alone it bootstraps."""
    here = list(present(seating, truth, t, market))

    def told(name):
        return {agent: truth[group][name][t, seat, market].item() for group, seat, agent in here}

    over, late = bool(truth["cut"][t, market]), any(told("truncated").values())
    episode.add_env_step(
        observations=seen(seating, truth, "following", t, market),
        actions={agent: groups[group].actions[t, ..., seat, market] for group, seat, agent in here},
        rewards=told("reward"),
        terminateds=told("terminated") | {"__all__": over and not late},
        truncateds={"__all__": over and late},
        extra_model_outputs={
            agent: {
                Columns.ACTION_DIST_INPUTS: groups[group].logits[t, :, seat, market],
                Columns.ACTION_LOGP: groups[group].logp[t, seat, market],
            }
            for group, seat, agent in here
        },
    )


def train_batch(config, module, batches):
    columns = RolloutToTrainBatch(config)(rl_module=module, batch={}, episodes=batches)
    return {name: {key: value.numpy() for key, value in own.items()} for name, own in columns.items()}


def in_order(columns):
    """Rows in the order of their log-probabilities, so that two sets of rows can be compared."""
    order = np.argsort(columns[Columns.ACTION_LOGP])
    assert (np.diff(columns[Columns.ACTION_LOGP][order]) > 0).all(), "rows that cannot be told apart"
    return {name: value[order] for name, value in columns.items()}


def standardized(values):
    return (values - values.mean()) / max(1e-4, values.std())


def test_rows_are_those_of_rllibs_own_pipeline():
    """Deaths, limits, resets of dead markets, chunks; two rollouts at once.

    RLlib standardises advantages over its phantom rows too, one for every chunk of an agent, so that its advantages
    are those of the bridge but for shift and scale. Standardised again over real rows they are equal.
    """
    learner, chunks = played.learner(), episodes()
    assert sum(chunk.is_terminated for chunk in chunks) >= 4
    assert sum(not chunk.is_done for chunk in chunks) >= played.MARKETS
    stock = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=chunks, shared_data={}, metrics=None
    )
    ours = train_batch(learner.config, learner.module, batches())
    assert set(ours) == set(stock) == {"taker", "odd", "maker"}
    for module, columns in stock.items():
        real = columns[Columns.LOSS_MASK].numpy()
        assert not real.all()
        theirs = in_order({name: columns[name].numpy()[real] for name in ours[module]})
        mine = in_order(ours[module])
        for name in SAME:
            np.testing.assert_array_equal(mine[name].astype(np.float32), theirs[name].astype(np.float32), err_msg=name)
        target = Postprocessing.VALUE_TARGETS
        np.testing.assert_allclose(mine[target], theirs[target], rtol=1e-5, atol=1e-5)
        advantage = theirs[Postprocessing.ADVANTAGES]
        np.testing.assert_allclose(mine[Postprocessing.ADVANTAGES], standardized(advantage), rtol=1e-4, atol=2e-5)
        with torch.no_grad():
            value = learner.module[module].compute_values({Columns.OBS: torch.from_numpy(theirs[Columns.OBS])}).numpy()
        raw = standardized(theirs[target] - value)
        np.testing.assert_allclose(mine[Postprocessing.ADVANTAGES], raw, rtol=1e-4, atol=2e-5)
        assert abs(standardized(advantage) - advantage).max() > 1e-4, "stock counts phantom rows no more"


def test_shares_of_a_rollout_have_the_rows_of_the_whole():
    learner, batch = played.learner(), batches()[1]
    edges = [0, 7, 8, 30, played.MARKETS]
    shares = [batch[low * played.LONG : high * played.LONG] for low, high in itertools.pairwise(edges)]
    whole = train_batch(learner.config, learner.module, [batch])
    parts = train_batch(learner.config, learner.module, shares)
    for module, columns in whole.items():
        mine, theirs = in_order(columns), in_order(parts[module])
        for name in SAME:
            np.testing.assert_array_equal(mine[name], theirs[name])
        for name in (Postprocessing.VALUE_TARGETS, Postprocessing.ADVANTAGES):
            np.testing.assert_allclose(mine[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_as_many_rows_reach_the_learner_as_the_batch_says():
    """RLlib plans minibatches with the one number and deals out the other."""
    columns = train_batch(played.learner().config, played.learner().module, played.batches())
    told = Counter()
    for batch in played.batches():
        told.update(dict.fromkeys(columns, 0))
        for share in batch.agent_episodes.values():
            told[share.module_id] += len(share)
    assert told == {name: len(own[Columns.ACTION_LOGP]) for name, own in columns.items()}


def test_the_connector_may_be_called_again():
    """Its memory is used again; a smaller and a larger batch in between leave nothing behind."""
    learner, (short, long) = played.learner(), played.batches()
    connector = RolloutToTrainBatch(learner.config)

    def rows(*batches):
        found = connector(rl_module=learner.module, batch={}, episodes=list(batches))
        return {(module, key): value.clone() for module, own in found.items() for key, value in own.items()}

    first = rows(short, long)
    rows(long)
    rows(long, short)
    again = rows(short, long)
    for key, value in first.items():
        assert torch.equal(again[key], value), key


def test_columns_of_the_fused_mode_are_those_of_the_connector():
    """The same records, values and advantages once in the compiled program and once in torch; normalised rows."""
    _, records, _ = played.normalized()
    seating = played.world()[0]
    fused = train_columns(seating.groups, records, RowMajor())
    rows = train_batch(played.learner().config, played.learner().module, [Played(seating, records).batch()])
    assert set(fused) == set(rows)
    assert np.any([one.truncated.any(1) for one in records["outcome"].values()], axis=0).sum(0).max() == 2
    for module, columns in rows.items():
        assert set(fused[module]) == set(columns)
        for name, value in columns.items():
            mine = fused[module][name].numpy()
            assert (mine.shape, mine.dtype) == (value.shape, value.dtype)
            if name in SAME:
                np.testing.assert_array_equal(mine, value, err_msg=name)
            else:
                np.testing.assert_allclose(mine, value, rtol=1e-5, atol=1e-5, err_msg=name)


def by_definition(reward, value, next_value, terminated, cut, gamma, decay):
    """The oracle, agent by agent."""
    found = np.empty(reward.shape)
    for place in np.ndindex(*reward.shape[1:]):
        own = [array[(slice(None), *place)] for array in (reward, value, next_value, terminated, cut)]
        found[(slice(None), *place)] = advantages(*own, gamma[place], decay[place])
    return found


@given(st.integers(0, 2**32 - 1))
def test_advantages_are_those_of_their_definition(seed):
    """For a discount of each row too; what is terminated is cut."""
    rng = np.random.default_rng(seed)
    shape = (rng.integers(1, 9), 2, 3)
    reward, value, next_value = (rng.normal(size=shape).astype(np.float32) for _ in range(3))
    terminated = rng.random(shape) < 0.2
    cut = terminated | (rng.random(shape) < 0.2)
    gamma, decay = (rng.uniform(0.0, 1.0, shape[1:]) for _ in range(2))
    tensors = [torch.from_numpy(array) for array in (reward, value, next_value, terminated, cut)]
    discounts = [torch.from_numpy(np.broadcast_to(one, shape).astype(np.float32)) for one in (gamma, decay)]
    expected = by_definition(reward, value, next_value, terminated, cut, gamma, decay)
    np.testing.assert_allclose(gae(*tensors, *discounts).numpy(), expected, rtol=1e-4, atol=1e-5)
    same = [np.full(shape[1:], number) for number in (0.9, 0.7)]
    expected = by_definition(reward, value, next_value, terminated, cut, *same)
    np.testing.assert_allclose(gae(*tensors, 0.9, 0.7).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_worked_example_of_ends():
    """Reward 1, values 10 before and 20 after, gamma 1/2: cut bootstraps 20, terminated does not."""
    ones = torch.ones(4)
    terminated, cut = torch.tensor([False, True, False, False]), torch.tensor([False, True, True, False])
    found = gae(ones, 10 * ones, 20 * ones, terminated, cut, 0.5, 1.0)
    # 1 + 10 - 10 = 1 where something follows, 1 - 10 = -9 where nothing does; the first row adds half of the second.
    assert found.tolist() == [1 - 4.5, -9.0, 1.0, 1.0]


LEAGUE = {"a": (0.9, 0.8), "b": (0.5, 0.95), "c": (0.99, 0.1)}  # gamma and lambda
MARKETS, STEPS, LENGTH = 16, 17, 6  # the second rollout begins with the last step of an episode


class Draws:
    """A mapping that seats every agent anew in every episode, and remembers what it said."""

    def __init__(self):
        self.rng, self.said = np.random.default_rng(0), []

    def __call__(self, agent, episode, **_):
        self.said.append((agent, "abc"[self.rng.integers(3)]))
        return self.said[-1][1]


@functools.cache
def league():
    """Two rollouts of a runner whose agents change modules with every episode: before, mapping and batch of each."""
    mapping = Draws()
    market = register_market("league-of-tests", functools.partial(two_roles, LENGTH, alike=True))
    overrides = {name: PPOConfig.overrides(gamma=gamma, lambda_=decay) for name, (gamma, decay) in LEAGUE.items()}
    config = (
        played.config_of(LEAGUE, mapping)
        .environment(market)
        .multi_agent(algorithm_config_overrides_per_module=overrides)
        .env_runners(num_envs_per_env_runner=MARKETS, rollout_fragment_length=STEPS)
        .training(train_batch_size_per_learner=MARKETS * STEPS, minibatch_size=64)
        .debugging(seed=3)
    )
    runner = BatchedMultiAgentEnvRunner(config=use_batched(config))
    assert runner.policy_backend == "torch"
    runner._begin()
    mapping = runner.seating.mapping  # RLlib copies a config, and what is in it
    said, samples = mapping.said[-MARKETS * len(runner.seating.agents) :], []
    for _ in range(2):
        before = played.copied(runner._rollout_state)
        mapping.said.clear()
        (batch,) = runner.sample()
        samples.append((before, said + mapping.said, batch, runner.get_metrics()))
        said = []
    return config, runner, samples


def sitting(seating, said, cuts):
    """Modules `[T, n, E]` by group from the mapping's answers: everybody at first, then wherever an episode begins."""
    answers = iter(said)
    now = {agent: np.empty(MARKETS, object) for agent in seating.agents}
    steps = []
    for begun in itertools.chain([np.ones(MARKETS, bool)], cuts):
        for market, agent in itertools.product(np.flatnonzero(begun), seating.agents):
            asked, module = next(answers)
            assert asked == agent
            now[agent][market] = module
        steps.append({group.name: np.stack([now[agent] for agent in group.agents]) for group in seating.groups})
    assert next(answers, None) is None
    return {name: np.stack([step[name] for step in steps[:-1]]) for name in steps[0]}


@functools.cache
def league_seats():
    """Modules `[T, n, E]` by group, in both rollouts together."""
    _, runner, samples = league()
    cuts = np.concatenate([batch.cut for _, _, batch, _ in samples])
    return sitting(runner.seating, [answer for _, said, _, _ in samples for answer in said], cuts)


def test_in_a_league_every_row_belongs_to_the_module_that_the_mapping_named():
    _, _, samples = league()
    assert sum(batch.cut.sum() for _, _, batch, _ in samples) >= 5 * MARKETS
    for name, wanted in league_seats().items():
        index = np.concatenate([batch.groups[name].module for _, _, batch, _ in samples])
        found = np.asarray(samples[-1][2].modules, object)[index]
        np.testing.assert_array_equal(found, wanted)
        assert set(wanted.reshape(-1)) == set(LEAGUE)


def test_in_a_league_rows_are_what_markets_and_modules_say():
    """The market stepped with the recorded actions; logits and probabilities of the module in the seat."""
    _, runner, samples = league()
    seats, start = league_seats(), 0
    for before, _, batch, _ in samples:
        raw = {name: rows.actions for name, rows in batch.groups.items()}
        truth = played.replayed(runner.seating, runner.env.params, before, raw)
        np.testing.assert_array_equal(batch.cut, truth["cut"])
        for name, rows in batch.groups.items():
            for field in ("obs", "reward", "terminated", "acted"):
                np.testing.assert_array_equal(getattr(rows, field), truth[name][field])
            np.testing.assert_array_equal(rows.last_obs, truth[name]["next"][-1])
            finals = truth[name]["following"][batch.reset_t, ..., batch.reset_e]
            np.testing.assert_array_equal(rows.final_obs, finals)
            flat = torch.from_numpy(np.moveaxis(rows.obs, 1, -1).reshape(-1, rows.obs.shape[1]).copy())
            raw = torch.from_numpy(np.moveaxis(rows.actions, 1, -1).reshape(len(flat), -1).copy())
            seat = seats[name][start : start + STEPS].reshape(-1)
            for module in LEAGUE:
                with torch.inference_mode():
                    outputs = runner.module[module].forward_exploration({Columns.OBS: flat})
                logits = outputs[Columns.ACTION_DIST_INPUTS]
                logp = runner.module[module].get_exploration_action_dist_cls().from_logits(logits).logp(raw).numpy()
                mine = np.moveaxis(rows.logits, 1, -1).reshape(len(flat), -1)
                same = np.isclose(mine, logits.numpy(), rtol=1e-5, atol=1e-5).all(1)
                np.testing.assert_array_equal(same, seat == module)
                here = seat == module
                np.testing.assert_allclose(rows.logp.reshape(-1)[here], logp[here], rtol=1e-4, atol=1e-5)
        start += STEPS


def test_in_a_league_advantages_are_of_the_module_that_acted():
    """Its critic, its gamma and its lambda, also where the episode goes on after the rollout or was cut."""
    learner, (_, _, samples) = league_learner(), league()
    for number, (_, _, batch, _) in enumerate(samples):
        ours = train_batch(learner.config, learner.module, [batch])
        wanted = defaultdict(list)
        for name, rows in batch.groups.items():
            seat = league_seats()[name][number * STEPS : (number + 1) * STEPS]
            for seat_number, market in np.ndindex(*seat.shape[1:]):
                for module, row in agent_rows(learner, batch, rows, seat[:, seat_number, market], seat_number, market):
                    wanted[module].append(row)
        assert set(ours) == set(LEAGUE)
        for module, rows in wanted.items():
            theirs = in_order({key: np.stack([row[key] for row in rows]) for key in ours[module]})
            mine = in_order(ours[module])
            for name in SAME:
                np.testing.assert_array_equal(mine[name], theirs[name])
            target, advantage = Postprocessing.VALUE_TARGETS, Postprocessing.ADVANTAGES
            np.testing.assert_allclose(mine[target], theirs[target], rtol=1e-4, atol=1e-4)
            np.testing.assert_allclose(mine[advantage], standardized(theirs[advantage]), rtol=1e-3, atol=1e-4)


@functools.cache
def league_learner():
    config, runner, _ = league()
    spaces = dict.fromkeys(LEAGUE, next(iter(played.spaces_of(runner.seating).values())))
    torch.manual_seed(11)
    return config.build_learner(spaces=spaces)


def agent_rows(learner, batch, rows, seats, number, market):
    """Module and columns of each row of one agent; advantages before they are standardised."""
    steps = len(seats)

    def value(module, obs):
        with torch.no_grad():
            return learner.module[module].compute_values({Columns.OBS: torch.from_numpy(obs[None].copy())}).item()

    obs = rows.obs[:, :, number, market]
    finals = {
        t: rows.final_obs[i, :, number]
        for i, (t, e) in enumerate(zip(batch.reset_t, batch.reset_e, strict=True))
        if e == market
    }
    following = [finals.get(t, obs[t + 1] if t + 1 < steps else rows.last_obs[:, number, market]) for t in range(steps)]
    terminated = rows.terminated[:, number, market]
    over = terminated | batch.cut[:, market]
    first = 0
    for last in [*np.flatnonzero(batch.cut[:, market]), steps - 1]:
        span = [t for t in range(first, last + 1) if rows.acted[t, number, market]]
        first = last + 1
        if not span:
            continue
        (module,) = set(seats[span])
        values = [value(module, obs[t]) for t in span]
        after = [value(module, following[t]) for t in span]
        reward = rows.reward[span, number, market]
        found = advantages(reward, values, after, terminated[span], over[span], *LEAGUE[module])
        for t, worth, advantage in zip(span, values, found, strict=True):
            yield (
                module,
                {
                    Columns.OBS: obs[t],
                    Columns.ACTIONS: rows.actions[t, :, number, market],
                    Columns.ACTION_DIST_INPUTS: rows.logits[t, :, number, market],
                    Columns.ACTION_LOGP: rows.logp[t, number, market],
                    Postprocessing.VALUE_TARGETS: advantage + worth,
                    Postprocessing.ADVANTAGES: advantage,
                },
            )


def test_in_a_league_a_batch_tells_rows_by_module():
    for _, _, batch, metrics in league()[2]:
        columns = train_batch(league_learner().config, league_learner().module, [batch])
        told = Counter()
        for share in batch.agent_episodes.values():
            told[share.module_id] += len(share)
        assert told == {name: len(own[Columns.ACTION_LOGP]) for name, own in columns.items()}
        counted = {name: int(count) for name, count in metrics["num_module_steps_sampled"].items()}
        assert counted == told


def test_in_a_league_returns_are_added_up_by_the_module_of_the_episode():
    """Episodes of the second rollout, some begun in the first, against a loop."""
    _, runner, samples = league()
    truths = []
    for _, _, batch, _ in samples:
        truth = {"cut": batch.cut}
        truth |= {name: {"reward": rows.reward, "acted": rows.acted} for name, rows in batch.groups.items()}
        truths.append(truth)
    where = {agent: (group.name, seat) for group in runner.seating.groups for seat, agent in enumerate(group.agents)}
    seats = league_seats()
    for number, (_, _, _, metrics) in enumerate(samples):

        def module_of(agent, t, market, number=number):
            group, seat = where[agent]
            return seats[group][number * STEPS + t, seat, market]

        ended = list(played.expected_episodes(runner.seating, truths, module_of))[number]
        window = ended[-100:]
        for module in LEAGUE:
            returns = [modules[module] for _, _, modules, _ in window if module in modules]
            assert float(metrics["module_episode_returns_mean"][module]) == pytest.approx(np.mean(returns), rel=1e-4)
        mean = np.mean([sum(agents.values()) for _, agents, _, _ in window])
        assert float(metrics["episode_return_mean"]) == pytest.approx(mean, rel=1e-4)
        assert float(metrics["episode_len_mean"]) == pytest.approx(np.mean([one[0] for one in window]))
        assert int(metrics["num_episodes"]) == len(ended)


def test_observations_cannot_be_normalised_in_a_league_by_accident():
    """Either it works, or `use_batched` says that it does not; a runner that breaks later is neither."""
    market = register_market("league-of-tests", functools.partial(two_roles, LENGTH, alike=True))
    config = (
        played.config_of(LEAGUE, Draws())
        .environment(market)
        .env_runners(num_envs_per_env_runner=2, rollout_fragment_length=2)
    )
    refusal = "observation_clip"
    try:
        use_batched(config, observation_clip=5.0)
    except ValueError as error:
        refusal = str(error)
    else:
        BatchedMultiAgentEnvRunner(config=config).sample()
    assert "observation_clip" in refusal


def rows_by_hand(acted, *, module=None, seed=0, modules=("one",)):
    """A batch of one group with the observation size 3 and two actions, `acted [T, n, E]`."""
    rng, (steps, agents, markets) = np.random.default_rng(seed), acted.shape
    rows = GroupRows(
        obs=rng.normal(size=(steps, 3, agents, markets)).astype(np.float32),
        actions=rng.integers(0, 2, (steps, agents, markets)).astype(np.int32),
        logits=rng.normal(size=(steps, 2, agents, markets)).astype(np.float32),
        logp=rng.normal(size=(steps, agents, markets)).astype(np.float32),
        reward=rng.normal(size=(steps, agents, markets)).astype(np.float32),
        terminated=np.zeros(acted.shape, bool),
        acted=acted,
        last_obs=rng.normal(size=(3, agents, markets)).astype(np.float32),
        final_obs=np.zeros((0, 3, agents), np.float32),
        module=module,
    )
    nothing = np.zeros(0, int)
    agents = tuple(f"one_{i:03d}" for i in range(agents))
    return RolloutBatch({"one": rows}, {"one": agents}, np.zeros((steps, markets), bool), nothing, nothing, modules)


@functools.cache
def small(learner_class, *modules, num_learners=0):
    """A learner whose modules have observations of size 3 and two actions."""
    spaces = (gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32), gymnasium.spaces.Discrete(2))
    config = played.config_of(modules, lambda agent, *_, **__: agent.rpartition("_")[0]).learners(
        learner_class=learner_class, num_learners=num_learners, add_default_connectors_to_learner_pipeline=False
    )
    torch.manual_seed(5)
    return config.build_learner(spaces=dict.fromkeys(modules, spaces))


def test_a_module_whose_agents_were_all_dead_has_no_rows():
    """A role that died before a rollout in the only market of a runner."""
    learner = small(RolloutPPOTorchLearner, "one")
    columns = train_batch(learner.config, learner.module, [rows_by_hand(np.zeros((2, 1, 1), bool))])
    assert all(len(value) == 0 for own in columns.values() for value in own.values())


def two_groups():
    """A league of two roles: module `a` sits in the first one only, `b` in the second one, whose rows are longer."""
    first = rows_by_hand(np.ones((4, 1, 2), bool), module=np.zeros((4, 1, 2), np.int16), modules=("a", "b"))
    second = rows_by_hand(np.ones((4, 1, 2), bool), module=np.ones((4, 1, 2), np.int16), seed=1)
    rows = second.groups["one"]
    longer = {"obs": np.repeat(rows.obs, 2, axis=1), "last_obs": np.repeat(rows.last_obs, 2, axis=0)}
    longer["final_obs"] = np.zeros((0, 6, 1), np.float32)
    groups = {"short": first.groups["one"], "long": dataclasses.replace(rows, **longer)}
    agents = {"short": ("short_000",), "long": ("long_000",)}
    return RolloutBatch(groups, agents, first.cut, first.reset_t, first.reset_e, ("a", "b"))


@pytest.mark.parametrize(
    "learners",
    [0, 2],
)
def test_a_role_adds_nothing_to_modules_that_never_sit_in_it(learners):
    """Their observations have another size."""
    discrete = gymnasium.spaces.Discrete(2)
    spaces = {
        "a": (gymnasium.spaces.Box(-1.0, 1.0, (3,)), discrete),
        "b": (gymnasium.spaces.Box(-1.0, 1.0, (6,)), discrete),
    }
    module = played.config_of(spaces, played.module_of).build_learner(spaces=spaces).module
    config = played.config_of(spaces, played.module_of).learners(num_learners=learners)
    columns = train_batch(config, module, [two_groups()])
    assert {name: own[Columns.OBS].shape for name, own in columns.items()} == {"a": (8, 3), "b": (8, 6)}
    for own in columns.values():
        assert own[Postprocessing.ADVANTAGES].mean() == pytest.approx(0.0, abs=1e-6)


def test_a_row_that_keeps_learners_together_asks_for_no_change():
    """Module `two` has no row in this learner's share; the value it is asked for and its actions are its own."""
    learner = small(RolloutPPOTorchLearner, "one", "two")
    config = learner.config.copy(copy_frozen=False).learners(num_learners=2)
    batch = rows_by_hand(np.ones((5, 1, 2), bool), module=np.zeros((5, 1, 2), np.int16), modules=("one", "two"))
    columns = train_batch(config, learner.module, [batch])
    assert len(columns["one"][Columns.OBS]) == 10
    row = {name: torch.from_numpy(value) for name, value in columns["two"].items()}
    assert len(row[Columns.OBS]) == 1
    assert row[Postprocessing.ADVANTAGES].tolist() == [0.0]
    with torch.no_grad():
        value = learner.module["two"].compute_values({Columns.OBS: row[Columns.OBS]})
        logits = learner.module["two"].forward_train({Columns.OBS: row[Columns.OBS]})[Columns.ACTION_DIST_INPUTS]
    torch.testing.assert_close(row[Postprocessing.VALUE_TARGETS], value)
    torch.testing.assert_close(row[Columns.ACTION_DIST_INPUTS], logits)


def test_a_single_row_has_the_advantage_zero():
    learner = small(RolloutPPOTorchLearner, "one")
    columns = train_batch(learner.config, learner.module, [rows_by_hand(np.ones((1, 1, 1), bool))])
    assert columns["one"][Postprocessing.ADVANTAGES].tolist() == [0.0]


def numbered(**rows):
    """A batch whose rows are told apart by their number."""
    policies = {
        module: SampleBatch({"row": torch.arange(count), "twice": 2 * torch.arange(count)})
        for module, count in rows.items()
    }
    return MultiAgentBatch(policies, env_steps=max(rows.values()))


def dealt(minibatches):
    """Row numbers of every module by minibatch."""
    found = []
    for minibatch in minibatches:
        assert isinstance(minibatch, MultiAgentBatch)
        own = {}
        for module, columns in minibatch.policy_batches.items():
            assert torch.equal(columns["twice"], 2 * columns["row"])
            assert len(columns["row"]) == len(columns) > 0
            own[module] = columns["row"].tolist()
        found.append(own)
    return found


def assert_every_row(found, rows, epochs):
    for module, count in rows.items():
        times = Counter(row for own in found for row in own.get(module, []))
        assert times == dict.fromkeys(range(count), epochs)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("rows", "size", "per_epoch"),
    [
        ({"few": 24, "many": 4096}, 128, 32),
        ({"few": 3, "many": 1000}, 64, 16),
        ({"one": 7}, 7, 1),
        ({"one": 8, "other": 1}, 7, 2),
        ({"none": 0, "some": 10}, 4, 3),
        ({"some": 10, "more": 11}, None, 1),
        ({"some": 5}, 100, 1),
    ],
)
def test_every_row_is_seen_once_in_every_epoch(rows, size, per_epoch, shuffle):
    epochs = 3
    found = dealt(ProportionalMinibatches(numbered(**rows), epochs, size, shuffle=shuffle))
    assert len(found) == epochs * per_epoch
    for epoch in range(epochs):
        assert_every_row(found[epoch * per_epoch : (epoch + 1) * per_epoch], rows, 1)
    for module, count in rows.items():
        sizes = [len(own[module]) for own in found if module in own]
        assert not count or max(sizes) - min(sizes) <= 1
        assert max(sizes, default=0) <= (size or count)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.integers(0, 60), min_size=1),
    st.none() | st.integers(1, 40),
    st.integers(1, 3),
)
def test_no_row_is_left_out_or_repeated_for_any_sizes(rows, size, epochs):
    found = dealt(ProportionalMinibatches(numbered(**rows), epochs, size))
    assert_every_row(found, rows, epochs)
    assert all(len(own) <= (size or 60) for minibatch in found for own in minibatch.values())
    assert all(found), "a minibatch of nothing"


def test_rows_are_dealt_anew_in_every_epoch():
    torch.manual_seed(0)
    first, second, third, fourth = dealt(ProportionalMinibatches(numbered(one=100), 2, 50))
    assert sorted(first["one"] + second["one"]) == list(range(100)) == sorted(third["one"] + fourth["one"])
    assert first["one"] != sorted(first["one"])
    assert set(first["one"]) != set(third["one"])
    in_turn = dealt(ProportionalMinibatches(numbered(one=100), 2, 50, shuffle=False))
    assert [own["one"] for own in in_turn] == [list(range(50)), list(range(50, 100))] * 2


def test_minibatches_tell_their_share_of_market_steps():
    minibatches = list(ProportionalMinibatches(numbered(one=100, two=10), 2, 25))
    assert [minibatch.env_steps() for minibatch in minibatches] == [25] * 8


def test_modules_come_in_the_same_order_whatever_that_of_the_batch():
    """Learners add up gradients in the order of their modules: another order mixes those of two modules."""
    for rows in ({"one": 6, "two": 4}, {"two": 4, "one": 6}):
        first = next(iter(ProportionalMinibatches(numbered(**rows), 1, 3)))
        assert list(first.policy_batches) == ["one", "two"]


def test_a_batch_without_modules_gives_no_minibatch():
    assert list(ProportionalMinibatches(MultiAgentBatch({}, 10), 3, 4)) == []


@given(st.integers(1, 80), st.integers(1, 80), st.integers(1, 30), st.integers(1, 4))
def test_learners_with_unequal_shares_take_as_many_steps(first, second, total, epochs):
    found = [dealt(ProportionalMinibatches(numbered(one=n), epochs, 8, total)) for n in (first, second)]
    steps = [len(list(ProportionalMinibatches(numbered(one=n), epochs, 8, total))) for n in (100, 900)]
    assert steps[0] == steps[1] >= total
    for rows, own in zip((first, second), found, strict=True):
        assert [len(minibatch["one"]) > 0 for minibatch in own] == [True] * steps[0]
        if rows >= steps[0] // epochs:
            assert_every_row(own, {"one": rows}, epochs)
        else:  # used again, so that nobody waits in vain
            assert {row for minibatch in own for row in minibatch["one"]} == set(range(rows))


def test_shares_of_the_fused_mode_take_as_many_steps():
    rows, size, epochs, learners = {"many": 1001, "few": 7}, 64, 3, 4
    config = played.config_of(rows, played.module_of).learners(num_learners=learners)
    config.training(minibatch_size=size, num_epochs=epochs)
    algorithm = BatchedPPO.__new__(BatchedPPO)
    algorithm.config = config
    batch = numbered(**rows)
    total = algorithm._total_minibatches(batch)
    shares = list(ShardBatchIterator(batch, learners))
    assert sum(len(share["many"]) for share in shares) == rows["many"]
    steps = {len(list(ProportionalMinibatches(share, epochs, size, total))) for share in shares}
    assert steps == {epochs * math.ceil(math.ceil(rows["many"] / learners) / size)}
    alone = played.config_of(rows, played.module_of).training(minibatch_size=size, num_epochs=epochs)
    algorithm.config = alone
    assert algorithm._total_minibatches(batch) == 0


def test_the_learner_trains_every_module_on_its_rows_only():
    """Two modules, one with a few rows of the other's hundreds, through RLlib's whole update."""
    learner = small(RolloutPPOTorchLearner, "one", "two")
    acted = np.ones((50, 4, 4), bool)
    module = np.zeros(acted.shape, np.int16)
    module[::5, 0] = 1
    batch = rows_by_hand(acted, module=module, modules=("one", "two"))
    before = {name: [p.detach().clone() for p in learner.module[name].parameters()] for name in ("one", "two")}
    result = learner.update(episodes=[batch], num_epochs=2, minibatch_size=50, shuffle_batch_per_epoch=True)
    trained = {name: int(result[name][NUM_MODULE_STEPS_TRAINED].peek()) for name in ("one", "two")}
    assert trained == {"one": 2 * 760, "two": 2 * 40}
    for name, weights in before.items():
        after = list(learner.module[name].parameters())
        assert any(not torch.equal(old, new) for old, new in zip(weights, after, strict=True))
        assert all(torch.isfinite(parameter).all() for parameter in after)


def learn_together(rank, store, told):
    """One of two learners, in a process of its own: unequal shares, and then one without rows of a module."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=15)
    torch.distributed.init_process_group("gloo", f"file://{store}", wait, world_size=2, rank=rank)
    learner = small(RolloutPPOTorchLearner, "few", "many", num_learners=2)
    for few, many in (((36, 20), (640, 600)), ((30, 0), (320, 300))):
        module = np.ones((few[rank] + many[rank], 1, 1), np.int16)
        module[: few[rank]] = 0
        modules = ("few", "many")
        if rank:  # every runner numbers modules as its own episodes first name them
            module, modules = 1 - module, ("many", "few")
        batch = rows_by_hand(np.ones(module.shape, bool), module=module, modules=modules, seed=rank)
        total = (few[0] + few[1] + many[0] + many[1]) // 32
        learner.update(episodes=[batch], num_epochs=1, minibatch_size=16, num_total_minibatches=total)
    told.put(
        [
            round(parameter.sum().item(), 4)
            for name in ("few", "many")
            for parameter in learner.module[name].parameters()
        ]
    )
    torch.distributed.barrier()


@pytest.mark.slow
def test_learners_with_unequal_shares_of_a_small_module_learn_together(tmp_path):
    """Gradients of a module are added up over all learners: a step that only one of them takes never returns."""
    context = torch.multiprocessing.get_context("spawn")
    told = context.Queue()
    workers = [context.Process(target=learn_together, args=(rank, tmp_path / "store", told)) for rank in range(2)]
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(60)
        assert [worker.exitcode for worker in workers] == [0, 0]
        assert told.get(timeout=5) == told.get(timeout=5)
    finally:
        for worker in workers:
            worker.kill()


def test_a_few_rows_are_not_dealt_out_one_by_one():
    """RLlib's explained variance of a single row is not a number, and torch warns of it."""
    learner = small(RolloutPPOTorchLearner, "few", "many")
    module = np.ones((50, 1, 4), np.int16)
    module[:2] = 0
    batch = rows_by_hand(np.ones(module.shape, bool), module=module, modules=("few", "many"))
    result = learner.update(episodes=[batch], num_epochs=1, minibatch_size=10)
    assert int(result["few"][NUM_MODULE_STEPS_TRAINED].peek()) == 8
    assert np.isfinite(result["few"]["vf_explained_var"].peek())


def test_a_module_that_is_not_to_be_trained_is_left_alone():
    learner = small(RolloutPPOTorchLearner, "one", "two")
    module = np.zeros((8, 2, 4), np.int16)
    module[:, 1] = 1
    batch = rows_by_hand(np.ones(module.shape, bool), module=module, modules=("one", "two"))
    before = [parameter.detach().clone() for parameter in learner.module["two"].parameters()]
    learner.config.policies_to_train = ["one"]
    try:
        result = learner.update(episodes=[batch], num_epochs=1, minibatch_size=8)
    finally:
        learner.config.policies_to_train = None
    assert int(result["one"][NUM_MODULE_STEPS_TRAINED].peek()) == 32
    for old, new in zip(before, learner.module["two"].parameters(), strict=True):
        assert torch.equal(old, new)


def test_the_learner_takes_finished_batches():
    learner = small(FastPPOTorchLearner, "one", "two")
    columns = train_batch(learner.config, learner.module, [rows_by_hand(np.ones((10, 1, 4), bool))])
    tensors = {name: torch.from_numpy(value) for name, value in columns["one"].items()}
    batch = joined([TrainRows({"one": tensors}, 40)])
    result = learner.update(batch=batch, num_epochs=3, minibatch_size=16)
    assert int(result["one"][NUM_MODULE_STEPS_TRAINED].peek()) == 3 * 40


def test_chunks_of_several_runners_become_one_batch():
    """Arrays from other processes and tensors of this one; a module that only one of them has."""
    first = TrainRows({"one": {"x": torch.arange(3)}, "two": {"x": torch.arange(2)}}, 30)
    readonly = np.arange(4)
    readonly.flags.writeable = False
    second = TrainRows({"one": {"x": readonly}}, 20)
    batch = joined([first, second])
    assert batch.env_steps() == 50 == len(first) + second.env_steps()
    assert (first.agent_steps(), second.agent_steps()) == (5, 4)
    assert {name: own["x"].tolist() for name, own in batch.policy_batches.items()} == {
        "one": [0, 1, 2, 0, 1, 2, 3],
        "two": [0, 1],
    }


@functools.cache
def fused_runner():
    """In a market in which nobody dies, with a fragment that is half of a train batch."""
    config = (
        PPOConfig()
        .environment(register_market("planted-of-tests", planted))
        .rl_module(model_config=played.learner().config.model_config)
        .env_runners(num_envs_per_env_runner=2, rollout_fragment_length=3)
        .training(train_batch_size_per_learner=12, minibatch_size=6)
    )
    config = use_batched(config, mode="fused")
    config.validate()  # RLlib has nothing against it
    return BatchedMultiAgentEnvRunner(config=config)


@pytest.mark.parametrize(
    ("rows", "learners"),
    [(1, 2), (2, 3), (8, 4), (4, 3), (5, 4), (9, 4)],
)
def test_every_learner_gets_rows_of_every_module(rows, learners):
    """RLlib gives the first ones a rounded-up share each, and the last ones what is left."""
    batch = joined([TrainRows({"one": {"x": torch.arange(rows)}}, 10)], learners)
    shares = [share["one"]["x"].tolist() for share in ShardBatchIterator(batch, learners)]
    assert all(shares), shares
    assert set(itertools.chain(*shares)) == set(range(rows))


def test_a_fused_sample_survives_the_next_one():
    """RLlib takes several samples for one batch where the fragments are short."""
    (first,) = fused_runner().sample()
    kept = {name: value.clone() for name, value in first.columns["trader"].items()}
    (second,) = fused_runner().sample()
    batch = joined([first, second])["trader"]
    for name, value in kept.items():
        assert torch.equal(batch[name][: len(value)], value), name


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (1, 1, 1, 1), (3, 7, 1, 6)])
def test_rows_are_the_same_however_they_are_laid_out(shape):
    rng = np.random.default_rng(0)
    array = rng.normal(size=shape).astype(np.float32)
    expected = [array[t, :, n, e] for t, n, e in np.ndindex(shape[0], *shape[2:])]
    for source in (array, np.asfortranarray(array), array[..., ::-1][..., ::-1]):
        np.testing.assert_array_equal(rows_of(source, feature=True).numpy(), expected)
        np.testing.assert_array_equal(RowMajor()("x", source).numpy(), expected)
    flat = array[:, 0]
    np.testing.assert_array_equal(rows_of(flat, feature=False).numpy(), flat.reshape(-1))


def test_memory_of_rows_is_used_again_under_the_same_name_only():
    memory, ones = RowMajor(), np.ones((2, 3, 4, 5), np.float32)
    first = memory("x", ones)
    other = memory("y", 2 * ones)
    again = memory("x", 3 * ones)
    assert again.data_ptr() == first.data_ptr() != other.data_ptr()
    assert (first == 3).all()
    assert (other == 2).all()
    larger = memory("x", np.ones((2, 3, 4, 6), np.float32))
    assert larger.shape == (48, 3)
    assert (again == 3).all()


def test_rows_of_arrays_that_may_not_be_written_are_taken_without_a_warning():
    """The memory belongs to JAX."""
    array = np.asarray(jax.numpy.arange(24.0).reshape(2, 3, 2, 2))
    assert not array.flags.writeable
    assert rows_of(array, feature=True).shape == RowMajor()("x", array).shape == (8, 3)
