"""Prices that come out of trading look like prices: the facts of Cont (2001), with the learned roles idle.

The hidden value is a Gaussian random walk that no trade moves, so nothing in it has heavy tails or clusters. Bounds
hold with room to spare for each of three seeds; what was measured over them stands beside each.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxarena
from jaxarena.core.money import int_quanta
from jaxarena.env.wrappers import Markets
from jaxarena.experiment import quality

MARKETS, STEPS, LAGS = 64, 5_000, 50
SEEDS = pytest.mark.parametrize("seed", [0, 11, 12])


@functools.cache
def played():
    """A compiled run of the preset without resets, as a function of the key, and its environment."""
    env, params = jaxarena.make("CallAuction-v0")
    params = params.replace(episode_length=jnp.int32(STEPS + 1))
    markets = Markets(env, MARKETS)
    nothing = {"maker": -1.0, "informed": 0.0}
    idle = {r: jnp.full((env.num_agents(r), env.action_space(r).size, MARKETS), nothing[r]) for r in env.learned_roles}

    def step(state, _):
        _, state, *_, info = markets.step(state, idle, params)
        book = state.market.mechanism.book
        return state, (book.price_ticks[0], state.market.close[0], book.volume_lots[0], info["reset"])

    @jax.jit
    def run(key):
        _, state = markets.reset(key, params)
        state, tape = jax.lax.scan(step, state, length=STEPS)
        return tape, state.market.ledger.agents

    return env, params, run


@functools.cache
def tape(seed):
    """Prices, values, volumes, `[M, T]`, and profits at the hidden value by role, in ticks per agent and step."""
    env, params, run = played()
    (price, value, volume, reset), agents = run(jax.random.key(seed))
    price, value, volume = (np.asarray(x, np.float64).T for x in (price, value, volume))
    assert not np.asarray(reset).any()
    cash = np.asarray(int_quanta(agents.cash), np.float64)  # [N, M] quanta
    tick_value = float(params.tick_value)
    worth = cash + np.asarray(agents.lots)[:, 0] * value[:, -1] * tick_value
    profits = {}
    for role in params.roles:
        start = float(role.cash) * params.quanta_per_unit
        profits[role.name] = (worth[env.agent_slice(role.name)].mean() - start) / STEPS / tick_value
    return price, value, volume, profits


@functools.cache
def facts(seed):
    price, _, volume, _ = tape(seed)
    return quality.stylised_facts(np.diff(np.log(price)), volume[:, 1:], LAGS, quality.Bootstrap(draws=10))


def pooled_kurtosis(returns):
    deviations = returns - returns.mean()
    return (deviations**4).mean() / (deviations**2).mean() ** 2 - 3.0


def horizon(returns, steps):
    """Sums over `steps` returns that do not overlap."""
    whole = returns.shape[1] // steps * steps
    return returns[:, :whole].reshape(len(returns), -1, steps).sum(2)


@SEEDS
def test_returns_have_heavy_tails_that_thin_out_with_the_horizon(seed):
    price, value, *_ = tape(seed)
    returns = np.diff(np.log(price))
    by_horizon = [pooled_kurtosis(horizon(returns, steps)) for steps in (1, 5, 20)]  # 3.5 to 4.0, 1.0, 0.2
    assert 1.5 < by_horizon[0] < 8.0
    assert by_horizon[0] > 1.5 * by_horizon[1]
    assert by_horizon[1] > 1.5 * by_horizon[2]
    assert abs(pooled_kurtosis(np.diff(np.log(value)))) < 0.1  # it does not come from the value


@SEEDS
def test_returns_have_no_memory_beyond_one_step(seed):
    memory = facts(seed).autocorrelation.value
    assert -0.45 < memory[0] < 0.0  # -0.37: noise is undone one auction later
    assert np.abs(memory[1:20]).max() < 0.05  # 0.03 to 0.04


@SEEDS
def test_the_size_of_returns_has_a_long_memory(seed):
    memory = facts(seed).absolute_autocorrelation.value  # 0.30, 0.09, 0.045 and 0.02 at lags 1, 5, 20 and 50
    assert memory[:5].min() > 0.06
    assert memory[5:20].min() > 0.025
    assert memory[20:].min() > 0.0
    assert memory[39:].mean() > 0.01
    _, value, *_ = tape(seed)
    of_value = quality.stylised_facts(np.diff(np.log(value)), None, 5, quality.Bootstrap(draws=10))
    assert np.abs(of_value.absolute_autocorrelation.value).max() < 0.02


@SEEDS
def test_volume_goes_with_volatility(seed):
    assert facts(seed).volume_volatility.value > 0.12  # 0.22


@SEEDS
def test_prices_track_the_value_to_the_end(seed):
    price, value, volume, _ = tape(seed)
    gap = 1e4 * (np.log(price) - np.log(value))
    assert np.sqrt((gap**2).mean()) < 45.0  # 30 bps
    assert np.sqrt((gap[:, -1_000:] ** 2).mean()) < 50.0
    assert abs(gap.mean()) < 3.0
    assert np.diff(np.log(price)).std() < 3.0 * np.diff(np.log(value)).std()  # 2.5
    assert (volume == 0).mean() < 0.01


@SEEDS
def test_noise_pays_those_who_know(seed):
    profits = tape(seed)[3]  # ticks per agent and step
    assert profits["maker"] == profits["informed"] == 0.0
    assert profits["noise"] < -1.5
    assert profits["fundamental"] > 2.0
    assert profits["dealer"] > 0.0
