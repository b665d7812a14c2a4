"""Rollouts of whole markets, against `Markets.step` called one step at a time with agents looked up by name.

The market ruins agents, resets at the limit and when all are dead. The second of two rollouts begins one step before a
limit, so that a market goes through as many resets as there are slots for final observations.
"""

import functools
import itertools
import math
import pickle
import re
from collections import defaultdict
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("ray.rllib")
pytest.importorskip("torch")

import torch
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.training_data import TrainingData
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig
from ray.rllib.utils.minibatch_utils import ShardEpisodesIterator
from ray.rllib.utils.spaces.space_utils import unsquash_action

from bridges.markets import gymnasium_space, idle_actions
from bridges.rllib.filters import ObservationMoments
from bridges.rllib.fused import FusedCollector
from bridges.rllib.metrics import StepCounts
from bridges.rllib.played import Played
from bridges.rllib.policy import distribution, export
from bridges.rllib.rollout import Actions, Collector, RolloutBatch
from bridges.rllib.seating import Seating
from jaxarena.core.spaces import Box
from jaxarena.env.wrappers import Markets
from jaxarena.learn import normalize
from tests.bridges.rllib_markets import two_roles

pytestmark = pytest.mark.bridge

LENGTH, SHORT, LONG, MARKETS, CLIP = 8, 15, 30, 48, 1.5
#: Filled in the markets that begin the long rollout with the last step of an episode: at steps 0, 8, 16 and 24.
SLOTS = 4


def module_of(agent, *_, **__):
    """A module for each role, but `taker_001` has one of its own and leaves a gap among the others."""
    return "odd" if agent == "taker_001" else agent.rpartition("_")[0]


def place(agent):
    """Role and number of an agent."""
    role, _, number = agent.rpartition("_")
    return role, int(number)


@functools.cache
def world():
    env, params = two_roles(LENGTH)
    return Seating(env, module_of), params


def spaces_of(seating):
    """Spaces by module, for RLlib."""
    return {
        group.name: (seating.observation_spaces[group.agents[0]], seating.action_spaces[group.agents[0]])
        for group in seating.groups
    }


def config_of(modules, mapping):
    """PPO with small networks."""
    return (
        PPOConfig()
        .multi_agent(policies=list(modules), policy_mapping_fn=mapping)
        .rl_module(model_config=DefaultModelConfig(fcnet_hiddens=[16]))
        .training(gamma=0.9, lambda_=0.8)
    )


@functools.cache
def learner():
    """RLlib's own PPO learner with its own connectors."""
    torch.manual_seed(7)
    spaces = spaces_of(world()[0])
    return config_of(spaces, module_of).build_learner(spaces=spaces)


@functools.cache
def policies():
    return {
        group.name: export(learner().module[group.name], group.action_space, group.obs_size, critic=True)
        for group in world()[0].groups
    }


@functools.cache
def compiled(kind, steps):
    """`play` of a plain collector, or of one that values and normalises, compiled as the runner does."""
    seating, slots = world()[0], 1 + (steps - 1) // LENGTH
    own = Collector(seating, MARKETS, Actions())
    if kind == "fused":
        discounts = {group.name: (0.9, 0.8) for group in seating.groups}
        own = FusedCollector(seating, MARKETS, Actions(), CLIP, discounts)
    play = jax.jit(own.play, static_argnums=(7, 8), donate_argnums=(0, 3), keep_unused=True)

    def run(state, obs, key, spare=None, used=None, moments=None):
        rest = (used or policies(), moments or {}, state, obs, key, world()[1])
        if spare is None:
            shapes = jax.eval_shape(lambda *rest: own.play((), *rest, steps, slots), *rest)[2]
            spare = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        return play(spare, *rest, steps, slots)

    return run


@functools.cache
def _reset():
    return jax.jit(Markets(world()[0].env, MARKETS).reset)


def begin(seed=0):
    obs, state = _reset()(jax.random.key(seed), world()[1])
    return state, obs


def copied(tree):
    """A copy that outlives a donation."""
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def on_host(records):
    return jax.tree.map(np.array, records)


class Rollout(NamedTuple):
    before: tuple  # state and observations
    records: dict
    key: jax.Array


@functools.cache
def rollouts():
    """The short rollout and the long one that goes on from it."""
    state, obs = begin()
    played = []
    for number, steps in enumerate((SHORT, LONG)):
        before, key = copied((state, obs)), jax.random.key(10 + number)
        state, obs, records = compiled("plain", steps)(state, obs, key)
        played.append(Rollout(before, on_host(records), key))
    return played


def by_agents(group, by_role):
    """Arrays `[N_role, ...]` by role to `[n, ...]` of a group's agents, looked up one by one."""
    return np.stack([np.asarray(by_role[role][number]) for role, number in map(place, group.agents)])


def seen_by(group, obs):
    """Observations by role to `[D, n, E]`."""
    return np.moveaxis(by_agents(group, obs), 0, 1)


def to_markets(seating, raw, markets):
    """Raw actions `[(k,) n, E]` by group to what `Markets.step` takes, through RLlib's own rule."""
    actions = idle_actions(seating.env, markets)
    for group in seating.groups:
        space = gymnasium_space(group.action_space)
        for seat, agent in enumerate(group.agents):
            chosen = raw[group.name][..., seat, :]
            if isinstance(group.action_space, Box):
                chosen = unsquash_action(chosen.T, space).T
            role, number = place(agent)
            actions[role][number] = chosen
    return actions


@functools.lru_cache(maxsize=4)
def _stepper(env, markets):
    return jax.jit(Markets(env, markets).step)


def replayed(seating, params, before, raw):
    """Raw actions `[T, (k,) n, E]` by group, one step after the other through `Markets.step`; arrays `[T, ...]`."""
    (state, obs), steps = before, []
    markets = next(iter(obs.values())).shape[-1]
    for t in range(len(next(iter(raw.values())))):
        actions = to_markets(seating, {name: value[t] for name, value in raw.items()}, markets)
        seen = {group.name: seen_by(group, obs) for group in seating.groups}
        obs, state, reward, terminated, truncated, info = _stepper(seating.env, markets)(state, actions, params)
        steps.append(
            {
                group.name: {
                    "obs": seen[group.name],
                    "reward": by_agents(group, reward),
                    "terminated": by_agents(group, terminated),
                    "truncated": by_agents(group, truncated),
                    "acted": by_agents(group, info["acted"]),
                    "episode_return": by_agents(group, info["episode"]["return"]),
                    "next": seen_by(group, obs),
                    "following": np.where(
                        info["reset"], *(seen_by(group, o) for o in (info["final_observation"], obs))
                    ),
                }
                for group in seating.groups
            }
            | {"cut": np.asarray(info["reset"]), "length": np.asarray(info["episode"]["length"])}
        )
    return jax.tree.map(lambda *leaves: np.stack(leaves), *steps)


@functools.cache
def replays():
    return [replayed(*world(), one.before, raw_of(one.records)) for one in rollouts()]


def raw_of(records):
    return {name: choice.actions for name, choice in records["choice"].items()}


def at_limit(truth, seating):
    """`[T, E]` bool, somebody was cut off by the time limit."""
    return np.any([truth[group.name]["truncated"].any(1) for group in seating.groups], axis=0)


def merged_moments(played):
    return {name: jax.tree.map(np.asarray, one) for name, one in played.moments().items()}


def assert_trees_equal(first, second):
    """Bit for bit."""
    assert jax.tree.structure(first) == jax.tree.structure(second)
    for mine, its in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True):
        np.testing.assert_array_equal(mine, its)
        assert np.asarray(mine).dtype == np.asarray(its).dtype


def test_the_rollouts_hold_every_kind_of_end():
    """Everything below would say little about a market in which this does not happen."""
    seating, (short, long) = world()[0], replays()
    all_dead, at_once = 0, 0
    for truth in (short, long):
        limit = at_limit(truth, seating)
        all_dead += (truth["cut"] & ~limit).sum()
        for group in seating.groups:
            own = truth[group.name]
            assert (own["terminated"] & ~truth["cut"][:, None]).sum() >= 5
            assert (~own["acted"]).sum() >= 10
            at_once += (own["terminated"] & limit[:, None]).sum()
    assert all_dead >= 3
    assert at_once >= 3, "deaths in the step that reaches the limit"
    assert at_limit(long, seating)[0].any()
    assert at_limit(long, seating).sum(0).max() == SLOTS == 1 + (LONG - 1) // LENGTH
    assert (~long["taker"]["acted"][0]).any(), "the rollout begins with somebody dead"


@pytest.mark.parametrize("number", [0, 1])
def test_rows_are_those_of_markets_stepped_one_by_one(number):
    records, truth = rollouts()[number].records, replays()[number]
    np.testing.assert_array_equal(records["cut"], truth["cut"])
    np.testing.assert_array_equal(records["length"], truth["length"])
    for group in world()[0].groups:
        outcome, own = records["outcome"][group.name], truth[group.name]
        for name in ("reward", "terminated", "truncated", "acted", "episode_return"):
            np.testing.assert_array_equal(getattr(outcome, name), own[name], err_msg=name)
        np.testing.assert_array_equal(records["choice"][group.name].obs, own["obs"])
        np.testing.assert_array_equal(records["last_obs"][group.name], own["next"][-1])


@pytest.mark.parametrize("number", [0, 1])
def test_final_observations_are_those_before_the_resets_at_the_limit(number):
    records, truth = rollouts()[number].records, replays()[number]
    limit = at_limit(truth, world()[0])
    for group in world()[0].groups:
        for market in range(MARKETS):
            when = np.flatnonzero(limit[:, market])
            kept = records["final_obs"][group.name][: len(when), :, :, market]
            np.testing.assert_array_equal(kept, truth[group.name]["following"][when][..., market])


def test_actions_are_drawn_from_the_modules_for_what_was_seen():
    for one in rollouts():
        for index, group in enumerate(world()[0].groups):
            choice = one.records["choice"][group.name]
            module = learner().module[group.name]
            rows = torch.from_numpy(np.moveaxis(choice.obs, 1, -1).reshape(-1, group.obs_size))
            with torch.inference_mode():
                logits = module.forward_exploration({Columns.OBS: rows})[Columns.ACTION_DIST_INPUTS]
                chance = module.get_exploration_action_dist_cls().from_logits(logits)
                actions = torch.from_numpy(np.moveaxis(choice.actions, 1, -1).reshape(len(rows), -1))
                logp = chance.logp(actions).numpy().reshape(choice.logp.shape)
            logits = np.moveaxis(logits.numpy().reshape(*choice.logp.shape, -1), -1, 1)
            np.testing.assert_allclose(choice.logits, logits, rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(choice.logp, logp, rtol=1e-5, atol=1e-5)
            for t in (0, 5, len(choice.logp) - 1):
                key = jax.random.fold_in(jax.random.fold_in(one.key, t), index)
                drawn = np.asarray(distribution(group.action_space, jnp.asarray(choice.logits[t])).sample(key))
                if isinstance(group.action_space, Box):
                    np.testing.assert_allclose(choice.actions[t], drawn, rtol=1e-6, atol=1e-6)
                else:
                    np.testing.assert_array_equal(choice.actions[t], drawn)


def decided():
    """The policies with hardly any chance left: the same actions whatever the key, and large ones."""

    def sharpened(policy, group):
        *layers, last = policy.head.weights
        if isinstance(group.action_space, Box):  # log standard deviations of -40 vanish beside a mean
            half = group.action_space.size
            bias = last["bias"].at[half:].set(-40.0)
            last = {"weight": (last["weight"] * 100.0).at[half:].set(0.0), "bias": bias}
        else:
            last = {"weight": last["weight"] * 1e6, "bias": last["bias"]}
        limit = None if policy.log_std_limit is None else policy.log_std_limit + 100.0
        return policy.replace(head=policy.head.replace(weights=(*layers, last)), log_std_limit=limit)

    return {group.name: sharpened(policies()[group.name], group) for group in world()[0].groups}


def test_two_rollouts_one_after_the_other_are_one_long_rollout():
    """With policies that leave nothing to chance, because a key belongs to one call."""
    state, obs, parts = *begin(3), []
    for number in range(2):
        state, obs, records = compiled("plain", SHORT)(state, obs, jax.random.key(number), used=decided())
        parts.append(on_host(records))
    end, last, whole = compiled("plain", LONG)(*begin(3), jax.random.key(9), used=decided())
    whole = on_host(whole)
    for name in ("choice", "outcome", "cut", "length"):
        joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(part[name] for part in parts))
        assert_trees_equal(joined, whole[name])
    assert_trees_equal(on_host((end.episode, end.market.step, last)), on_host((state.episode, state.market.step, obs)))
    seating = world()[0]
    assert whole["cut"].sum() > 3 * MARKETS
    assert any((~one.acted).any() for one in whole["outcome"].values()), "somebody dies"
    counts = [limits_of(part).sum(0) for part in parts]
    for group in seating.groups:
        for market in range(MARKETS):
            finals = [part["final_obs"][group.name][..., market] for part in parts]
            joined = np.concatenate([final[: n[market]] for final, n in zip(finals, counts, strict=True)])
            np.testing.assert_array_equal(joined, whole["final_obs"][group.name][: len(joined), ..., market])


def limits_of(records):
    return np.any([one.truncated.any(1) for one in records["outcome"].values()], axis=0)


def test_records_that_somebody_still_reads_survive_the_next_rollout():
    run = compiled("plain", SHORT)
    state, obs, records = run(*begin(1), jax.random.key(0))
    batch = Played(world()[0], records).batch()
    views, kept = jax.tree.map(np.asarray, records), on_host(records)
    state, obs, again = run(state, obs, jax.random.key(1), records)
    del records
    state, obs, _ = run(state, obs, jax.random.key(2), again)
    jax.block_until_ready(obs)
    assert_trees_equal(views, kept)
    for name, rows in batch.groups.items():
        np.testing.assert_array_equal(rows.obs, kept["choice"][name].obs)
        np.testing.assert_array_equal(rows.last_obs, kept["last_obs"][name])


def test_memory_of_records_that_nobody_reads_is_used_again():
    run = compiled("plain", SHORT)
    state, obs, records = run(*begin(1), jax.random.key(0))
    where = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(records)}
    _, _, again = run(state, obs, jax.random.key(1), records)
    assert {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(again)} == where
    with pytest.raises(RuntimeError, match="deleted"):
        np.asarray(records["cut"])


@functools.cache
def normalized():
    """A rollout with moments from the short one; what was known, and the records."""
    known = {}
    for group in world()[0].groups:
        own = replays()[0][group.name]
        rows = jnp.asarray(np.moveaxis(own["obs"], 1, 0))  # [D, T, n, E]
        known[group.name] = normalize.moments(rows, jnp.asarray(own["acted"])[None], (1, 2, 3))
    state, obs = copied(rollouts()[1].before)
    _, _, records = compiled("fused", SHORT)(state, obs, jax.random.key(4), moments=known)
    records = on_host(records)
    truth = replayed(*world(), rollouts()[1].before, raw_of(records))
    return known, records, truth


def test_normalized_rows_are_deviations_from_the_known_mean():
    """Not bit for bit: in a program that is compiled otherwise an order may be trimmed to one lot more or less."""
    known, records, truth = normalized()
    limit = limits_of(records)
    clipped = 0
    for group in world()[0].groups:
        mean = np.asarray(known[group.name].mean, np.float64)[:, None, None]
        count = float(known[group.name].count)
        std = np.sqrt(np.asarray(known[group.name].m2, np.float64)[:, None, None] / count + 1e-8)

        def expected(raw, mean=mean, std=std):
            return np.clip((raw - mean) / std, -CLIP, CLIP)

        own = truth[group.name]
        close = functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=5e-3)
        close(records["choice"][group.name].obs, expected(own["obs"]))
        close(records["last_obs"][group.name], expected(own["next"][-1]))
        for market in range(MARKETS):
            when = np.flatnonzero(limit[:, market])
            kept = records["final_obs"][group.name][: len(when), :, :, market]
            close(kept, expected(own["following"][when], mean[None], std[None])[..., market])
        clipped += (np.abs(records["choice"][group.name].obs) == np.float32(CLIP)).sum()
    assert clipped > 100
    assert limit.sum() > MARKETS


def test_moments_are_over_the_raw_rows_of_living_agents():
    _, records, truth = normalized()
    found = merged_moments(Played(world()[0], records))
    for group in world()[0].groups:
        acted = records["outcome"][group.name].acted
        rows = np.moveaxis(truth[group.name]["obs"], 1, -1)[acted].astype(np.float64)  # [rows, D]
        assert len(rows) < acted.size
        assert found[group.name].count == len(rows)
        np.testing.assert_allclose(found[group.name].mean, rows.mean(0), rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(found[group.name].variance(), rows.var(0), rtol=1e-3, atol=1e-6)


def expected_episodes(seating, truths, module_of_row):
    """Episodes that ended, by going through markets and steps one at a time: by rollout."""
    returns = defaultdict(float)
    steps = defaultdict(int)
    for truth in truths:
        ended = []
        for t, market in np.ndindex(*truth["cut"].shape):
            for group in seating.groups:
                for seat, agent in enumerate(group.agents):
                    returns[market, agent] += float(truth[group.name]["reward"][t, seat, market])
                    steps[market, agent] += int(truth[group.name]["acted"][t, seat, market])
            if truth["cut"][t, market]:
                own = {agent: returns.pop((market, agent)) for agent in seating.agents}
                modules = defaultdict(float)
                for agent, value in own.items():
                    modules[module_of_row(agent, t, market)] += value
                taken = {agent: steps.pop((market, agent)) for agent in seating.agents}
                ended.append((max(taken.values()), own, dict(modules), taken))
        yield ended


def assert_episodes(found, expected):
    assert len(found) == len(expected)
    for mine, (length, agents, modules, steps) in zip(found, expected, strict=True):
        assert (mine.length, mine.agent_steps) == (length, steps)
        assert mine.agents == pytest.approx(agents, rel=1e-5, abs=1e-5)
        assert mine.modules == pytest.approx(modules, rel=1e-5, abs=1e-5)


def test_finished_episodes_and_counts_are_those_counted_one_by_one():
    """The second rollout ends episodes that began in the first."""
    seating = world()[0]
    counts = {group.name: StepCounts(len(group.agents), MARKETS) for group in seating.groups}
    wanted = list(expected_episodes(seating, replays(), lambda agent, *_: module_of(agent)))
    for one, truth, expected in zip(rollouts(), replays(), wanted, strict=True):
        played = Played(seating, one.records)
        assert played.num_finished == len(expected) == truth["cut"].sum()
        assert played.market_steps == truth["cut"].size
        by_agent = {
            agent: int(truth[group.name]["acted"][:, seat].sum())
            for group in seating.groups
            for seat, agent in enumerate(group.agents)
        }
        assert played.agent_counts() == by_agent
        by_module = defaultdict(int)
        for agent, count in by_agent.items():
            by_module[module_of(agent)] += count
        assert played.module_counts() == by_module
        assert_episodes(list(played.finished(counts, most=10**6)), expected)


def test_only_the_last_episodes_are_told_but_all_are_counted():
    seating = world()[0]
    counts = {group.name: StepCounts(len(group.agents), MARKETS) for group in seating.groups}
    wanted = list(expected_episodes(seating, replays(), lambda agent, *_: module_of(agent)))
    for one, expected in zip(rollouts(), wanted, strict=True):
        assert_episodes(list(Played(seating, one.records).finished(counts, most=3)), expected[-3:])


@given(st.integers(0, 2**32 - 1))
def test_step_counts_are_those_of_a_loop(seed):
    rng = np.random.default_rng(seed)
    agents, markets = rng.integers(1, 4, 2)
    counts, steps = StepCounts(agents, markets), np.zeros((agents, markets), int)
    for _ in range(3):
        length = rng.integers(1, 8)
        acted = rng.random((length, agents, markets)) < 0.7
        cut = rng.random((length, markets)) < 0.4
        expected = []
        for t, market in np.ndindex(length, markets):
            steps[:, market] += acted[t, :, market]
            if cut[t, market]:
                expected.append(steps[:, market].tolist())
                steps[:, market] = 0
        assert counts.finished(acted, cut).tolist() == expected
        np.testing.assert_array_equal(counts.so_far, steps)


@functools.cache
def batches():
    return [Played(world()[0], one.records).batch() for one in rollouts()]


def assert_batches_equal(first, second):
    assert_trees_equal([vars(rows) for rows in first.groups.values()], [vars(rows) for rows in second.groups.values()])
    assert list(first.groups) == list(second.groups)
    assert_trees_equal([first.cut, first.reset_t, first.reset_e], [second.cut, second.reset_t, second.reset_e])
    assert (first.agents, first.modules) == (second.agents, second.modules)


@pytest.mark.parametrize("number", [0, 1])
def test_a_batch_holds_every_reset_at_the_limit_once(number):
    batch, truth = batches()[number], replays()[number]
    limit = at_limit(truth, world()[0])
    assert sorted(zip(batch.reset_t, batch.reset_e, strict=True)) == sorted(zip(*np.nonzero(limit), strict=True))
    for group in world()[0].groups:
        own, rows = truth[group.name], batch.groups[group.name]
        assert len(rows.final_obs) == limit.sum()
        for i, (t, market) in enumerate(zip(batch.reset_t, batch.reset_e, strict=True)):
            np.testing.assert_array_equal(rows.final_obs[i], own["following"][t, :, :, market])
        for name in ("reward", "terminated", "acted"):
            np.testing.assert_array_equal(getattr(rows, name), own[name])
    assert len(batch) == batch.env_steps() == truth["cut"].size
    assert batch.agent_steps() == sum(truth[group.name]["acted"].sum() for group in world()[0].groups)


def test_shares_of_a_batch_are_its_markets():
    batch = batches()[1]
    edges = [0, 5, 6, MARKETS]
    shares = [batch[low * LONG : high * LONG] for low, high in itertools.pairwise(edges)]
    assert [len(share) for share in shares] == [5 * LONG, LONG, (MARKETS - 6) * LONG]
    assert sum(share.agent_steps() for share in shares) == batch.agent_steps()
    for name, rows in batch.groups.items():
        for field in ("obs", "actions", "logits", "logp", "reward", "terminated", "acted", "last_obs"):
            parts = [getattr(share.groups[name], field) for share in shares]
            np.testing.assert_array_equal(np.concatenate(parts, axis=-1), getattr(rows, field))
    whole = {(t, e): i for i, (t, e) in enumerate(zip(batch.reset_t, batch.reset_e, strict=True))}
    for low, share in zip(edges, shares, strict=False):
        assert share.cut.shape[1] * LONG == len(share)
        for i, (t, e) in enumerate(zip(share.reset_t, share.reset_e, strict=True)):
            number = whole.pop((t, e + low))
            for name, rows in share.groups.items():
                np.testing.assert_array_equal(rows.final_obs[i], batch.groups[name].final_obs[number])
    assert not whole


def test_the_end_of_a_slice_may_be_left_out():
    batch = batches()[0]
    assert_batches_equal(batch[:], batch)
    assert_batches_equal(batch.slice(slice(SHORT, None), len_lookback_buffer=1), batch[SHORT : MARKETS * SHORT])
    assert_batches_equal(batch[: -3 * SHORT], batch[: (MARKETS - 3) * SHORT])
    assert_batches_equal(batch[SHORT:][: 4 * SHORT], batch[SHORT : 5 * SHORT])


@pytest.mark.parametrize("range_", [slice(0, SHORT + 1), slice(3, None), slice(SHORT, 2 * SHORT - 1)])
def test_a_market_is_not_cut_apart(range_):
    with pytest.raises(ValueError, match=re.escape("multiple of num_learners")):
        batches()[0].slice(range_)


def test_rllib_deals_out_whole_markets_to_learners():
    """Two rollouts among three learners, through RLlib's own sharing."""
    shares = list(ShardEpisodesIterator(list(batches()), num_shards=3, len_lookback_buffer=1))
    sizes = [sum(len(part) for part in share) for share in shares]
    assert sizes == [MARKETS * (SHORT + LONG) // 3] * 3
    for steps, batch in zip((SHORT, LONG), batches(), strict=True):
        parts = [part for share in shares for part in share if part.cut.shape[0] == steps]
        for name, rows in batch.groups.items():
            # Markets tell themselves apart by their rewards.
            found = np.concatenate([part.groups[name].reward for part in parts], axis=-1)
            assert sorted(found.reshape(-1, found.shape[-1]).T.tolist()) == sorted(
                rows.reward.reshape(-1, MARKETS).T.tolist()
            )


def test_rllib_counts_minibatches_by_the_rows_of_the_largest_module():
    batch, size, epochs, learners = batches()[1], 50, 3, 2
    shards = TrainingData(episodes=[batch]).shard(num_shards=learners, minibatch_size=size, num_epochs=epochs)
    largest = max(int(rows.acted.sum()) for rows in batch.groups.values())
    expected = int(epochs * largest / (learners * size))
    assert [told["num_total_minibatches"] for _, told in shards] == [expected] * learners


def test_a_batch_tells_how_many_rows_every_agent_and_module_has():
    batch = batches()[1]
    episodes = batch.agent_episodes
    assert set(episodes) == set(world()[0].agents)
    for agent, episode in episodes.items():
        assert episode.module_id == module_of(agent)
    for name, rows in batch.groups.items():
        assert sum(len(one) for one in episodes.values() if one.module_id == name) == rows.acted.sum()


def test_a_batch_survives_pickling_and_so_do_its_shares():
    batch = batches()[1]
    for one in (batch, batch[2 * LONG : 5 * LONG]):
        again = pickle.loads(pickle.dumps(one))
        assert isinstance(again, RolloutBatch)
        assert_batches_equal(again, one)
    assert len(pickle.dumps(batch[:LONG])) < len(pickle.dumps(batch)) / (MARKETS / 2)


def moments_of(rows):
    """Moments of `[rows, D]`."""
    return normalize.moments(jnp.asarray(rows, jnp.float32), jnp.ones((len(rows), 1), bool), (0,))


def assert_moments_of(found, rows):
    assert float(found.count) == len(rows)
    if len(rows):
        np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(found.variance(), rows.var(0), rtol=1e-3, atol=1e-4)


@given(st.integers(0, 2**32 - 1))
def test_exchanged_moments_count_every_observation_once(seed):
    """Some runners, some rollouts between exchanges; a checkpoint is restored in between."""
    rng = np.random.default_rng(seed)
    sizes = {"few": 2, "many": 3}
    driver, runners = ObservationMoments(sizes), [ObservationMoments(sizes) for _ in range(rng.integers(1, 4))]
    everything = {name: np.zeros((0, size)) for name, size in sizes.items()}
    for _ in range(3):
        for runner in runners:
            for _ in range(rng.integers(0, 3)):
                new = {name: rng.normal(2.0, 3.0, (rng.integers(1, 5), size)) for name, size in sizes.items()}
                if rng.random() < 0.3:
                    del new["few"]
                runner.add({name: moments_of(rows) for name, rows in new.items()})
                everything |= {name: np.concatenate([everything[name], rows]) for name, rows in new.items()}
        state = driver.merged([pickle.loads(pickle.dumps(runner.state())) for runner in runners])
        if rng.random() < 0.3:
            runners[0] = ObservationMoments(sizes)
        for one in (driver, *runners):
            one.set_state(state)
        for one in (driver, *runners):
            for name, rows in everything.items():
                assert_moments_of(one.get()[name], rows)
        restored = ObservationMoments(sizes)
        restored.set_state(pickle.loads(pickle.dumps(driver.state())))
        driver = restored


def test_moments_of_one_runner_alone_grow_without_exchange():
    moments, rng = ObservationMoments({"all": 4}), np.random.default_rng(0)
    rows = rng.normal(-1.0, 2.0, (30, 4))
    for part in np.array_split(rows, 4):
        moments.add({"all": moments_of(part)})
    assert_moments_of(moments.get()["all"], rows)
    again = ObservationMoments({"all": 4})
    again.set_state(moments.state())
    assert_moments_of(again.get()["all"], rows)
    more = rng.normal(5.0, 1.0, (10, 4))
    again.add({"all": moments_of(more)})
    assert_moments_of(again.get()["all"], np.concatenate([rows, more]))
    again.set_state({})  # RLlib hands an empty state to runners that have none yet
    assert_moments_of(again.get()["all"], np.concatenate([rows, more]))


def test_moments_that_nobody_has_seen_leave_observations_as_they_are():
    found = ObservationMoments({"all": 3}).get()["all"]
    x = jnp.array([[0.5], [-2.0], [9.0]])
    np.testing.assert_allclose(normalize.normalize(x, found, 5.0), [[0.5], [-2.0], [5.0]], rtol=1e-6)
    assert math.isclose(float(found.count), 0.0)
