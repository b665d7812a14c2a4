"""The environment: one pure function that steps one market.

`step_env` reads as its stages: decide, advance, clear, settle, observe. Belongs here: the order of
events. Does not belong here: any formula that a component or a module of `jaxarena.market` could own.
"""

from collections import Counter
from typing import Any

import jax
import jax.numpy as jnp

from jaxarena.core.checks import expect_shape
from jaxarena.core.draws import fold_in
from jaxarena.core.once import once
from jaxarena.core.reduce import fold, total
from jaxarena.core.spaces import Box, Space
from jaxarena.core.tree import where
from jaxarena.core.types import Bar, Orders, Quote
from jaxarena.env import build, observations, settlement
from jaxarena.env.rewards import Transition
from jaxarena.env.roles import Role
from jaxarena.env.state import Accounts, Cleared, Decision, EpisodeStatistics, MarketParams, MarketState, Private
from jaxarena.market import ledger as ledgers
from jaxarena.market import margin
from jaxarena.market.indicators import Window, update_all
from jaxarena.market.processes import Process
from jaxarena.market.views import AccountView, MarketView

#: An array for each learned role.
ByRole = dict[str, jax.Array]
Transitioned = tuple[MarketState, ByRole, ByRole, ByRole, dict[str, Any]]
Step = tuple[ByRole, MarketState, ByRole, ByRole, ByRole, dict[str, Any]]


class MarketEnv:
    """A market of learned and scripted agents.

    The environment owns no numbers: everything is in `params`, of which `default_params` is the instance
    it was built from. At agent level every array is in a dict keyed by learned role, without padding.
    """

    def __init__(self, default_params: MarketParams) -> None:
        self.default_params = default_params

    @staticmethod
    def build(market: MarketParams) -> "tuple[MarketEnv, MarketParams]":
        """Validate a market and make it ready to run. Host only.

        Returns:
            The environment and its parameters, as 32-bit arrays.

        Raises:
            ValueError: what is wrong, what is allowed, what to do.
        """
        params = build.prepare(market)
        env = MarketEnv(params)
        jax.eval_shape(env.reset, jax.random.key(0), params)
        return env, params

    @property
    def roles(self) -> tuple[Role, ...]:
        """All roles, in the order of their agents."""
        return self.default_params.roles

    @property
    def learned_roles(self) -> tuple[str, ...]:
        """Names of the roles that act through `action`."""
        return tuple(role.name for role in self.roles if role.learned)

    @property
    def total_agents(self) -> int:
        """`N`: learned and scripted agents of one market."""
        return sum(role.count for role in self.roles)

    @property
    def asset_names(self) -> tuple[str, ...]:
        """Names of the `A` assets."""
        return self.default_params.process.asset_names

    def num_agents(self, role: str) -> int:
        """Agents of one role in one market."""
        return self._role(role).count

    def agent_slice(self, role: str) -> slice:
        """Rows of a role in arrays over all `N` agents."""
        start = 0
        for candidate in self.roles:
            if candidate.name == role:
                return slice(start, start + candidate.count)
            start += candidate.count
        raise KeyError(role)

    def action_space(self, role: str, params: MarketParams | None = None) -> Space:
        """Action space of one agent of a learned role."""
        return self._role(role).action.space(len(self.asset_names))

    def observation_space(self, role: str, params: MarketParams | None = None) -> Box:
        """Observation space of one agent of a learned role."""
        size = max(part.stop for part in self.observation_layout(role).values())
        return Box(-observations.LIMIT, observations.LIMIT, size)

    def observation_layout(self, role: str) -> dict[str, slice]:
        """Where each block stands in the role's observation; the market's part comes first.

        A second block of one kind is called `kind_2`, a third `kind_3`.
        """
        layout: dict[str, slice] = {}
        start, seen = 0, Counter[str]()
        for block, size in build.block_sizes(self, self._role(role)):
            seen[block] += 1
            name = block if seen[block] == 1 else f"{block}_{seen[block]}"
            layout[name] = slice(start, start + size)
            start += size
        return layout

    def sample_actions(self, key: jax.Array, params: MarketParams | None = None) -> ByRole:
        """Random valid actions of all learned roles of one market. key: consumed."""
        return {
            name: self.action_space(name).sample(fold_in(key, i), (self.num_agents(name),))
            for i, name in enumerate(self.learned_roles)
        }

    def audit(self, state: MarketState, params: MarketParams | None = None) -> tuple[int, list[int]]:
        """Total cash in quanta and total lots per asset over all accounts of one market: all zero. Host only."""
        return ledgers.audit(state.ledger)

    def params_axes(self, params: MarketParams) -> MarketParams:
        """`in_axes` for `vmap` over a population of markets: 0 for every number, None for shared history."""
        axes = jax.tree.map(lambda _: 0, params)
        return axes.replace(process=axes.process.without_bars(), warm_carries=None)

    def reset(self, key: jax.Array, params: MarketParams) -> tuple[ByRole, MarketState]:
        """Start an episode. key: consumed. Cost: O(agents * assets), whatever the horizon.

        Returns:
            `obs[role]`, `[N_role, D_role]` float32, and the state.
        """
        state = once(self.first_state(key, params))
        return self.observe(state, params), state

    def step(self, key: jax.Array, state: MarketState, action: ByRole, params: MarketParams) -> Step:
        """`step_env`, and a new episode when the old one is over. Only `terminated` zeroes the bootstrap.

        Returns:
            As `step_env`; `obs` is the first of the new episode where `info["reset"]`.

        Keys of `info` besides those of `settlement.report`; what is by role is a dictionary of the learned roles:
            - `acted [N_role]`, bool by role: the agent was alive when the step began; only then is the row real
            - `reset []`, bool: the episode is over
            - `episode.return [N_role]`, float32 by role: sum of the rewards since the start of the episode
            - `episode.length []`, int32 steps: since the start of the episode
            - `final_observation [N_role, D_role]`, float32 by role: what was seen before the reset, to bootstrap from
        """
        obs, state, reward, terminated, truncated, info = self.step_env(fold_in(key, 0), state, action, params)
        fresh_obs, fresh = self.reset(fold_in(key, 1), params)
        info = info | {"final_observation": obs}
        obs, state = where(info["reset"], (fresh_obs, fresh), (obs, state))
        return obs, state, reward, terminated, truncated, info

    def step_env(self, key: jax.Array, state: MarketState, action: ByRole, params: MarketParams) -> Step:
        """Advance one market by one bar, without auto-reset.

        Args:
            key: consumed.
            state: from `reset` or the last step.
            action: for each learned role `[N_role, ...]`; anything invalid is masked or clipped and counted.
            params: of `build`.

        Returns:
            obs: `[N_role, D_role]` float32 per learned role.
            state: the next state.
            reward: `[N_role]` float32; zero for agents that were dead.
            terminated: `[N_role]` bool, the agent went bankrupt (or the horizon is terminal and reached).
            truncated: `[N_role]` bool, the time limit was reached while alive: bootstrap from `obs`.
            info: `acted[role]`, `reset`, `episode`, `equity`, and counts; see `settlement.report`.
        """
        state, *outcome = self.transition(key, state, action, params)
        reward, terminated, truncated, info = outcome
        return self.observe(state, params), state, reward, terminated, truncated, info

    def transition(self, key: jax.Array, state: MarketState, action: ByRole, params: MarketParams) -> Transitioned:
        """`step_env` without observations: decide, advance, clear, settle."""
        decision = self.decide(fold_in(key, 0), state, action, params)
        process, quote = self.advance(fold_in(key, 1), state, params)
        cleared = self._clear(fold_in(key, 2), state, decision, quote, params)
        after, transition = self._settle(fold_in(key, 3), state, decision, process, quote, cleared, params)
        return self._outcome(state, after, decision, cleared, transition, params)

    def observe(self, state: MarketState, params: MarketParams) -> ByRole:
        """What the learned agents see now, `[N_role, D_role]` float32 per role."""
        market = self.market_view(state, params)
        return {
            role.name: observations.join(role.observations, market, self.account_view(role.name, state, params))
            for role in params.roles
            if role.learned
        }

    def decide(self, key: jax.Array, state: MarketState, action: ByRole, params: MarketParams) -> Decision:
        """What every agent wants to trade, seeing bar t: learners, strategies, and margin calls over both."""
        market, accounts, positions = self.market_view(state, params), state.accounts, state.ledger.agents.lots
        called, forced = margin.forced_lots(
            positions, accounts.equity_mid, accounts.gross, accounts.initial_equity, self._limits(params)
        )
        called &= accounts.alive
        overruled = called | ~accounts.alive
        if params.horizon == "terminal" and not params.mechanism.makes_price:
            closing = state.step + 1 >= params.episode_length
            overruled, forced = overruled | closing, jnp.where(closing, -positions, forced)
        forced = jnp.where(accounts.alive[:, None], forced, 0)
        orders, clipped = [], []
        for index, (role, rows) in enumerate(self._slices(params)):
            account = self.account_view(role.name, state, params)
            if role.learned:
                expect_shape(f"action[{role.name!r}]", action[role.name], self._action_shape(role))
                wanted, wrong = role.action.decide(action[role.name], market, account)
            else:
                wanted = role.strategy.act(fold_in(key, index), market, account)
                wrong = jnp.zeros(role.count, jnp.int32)
            orders.append(wanted.overrule(overruled[rows], forced[rows]))
            clipped.append(wrong)
        return once(
            Decision(orders=Orders.join(orders), called=called, actions_clipped=jnp.concatenate(clipped)),
        )

    def advance(self, key: jax.Array, state: MarketState, params: MarketParams) -> tuple[Any, Quote]:
        """Move the exogenous price to bar t+1, still hidden from every agent."""
        process, bar = params.process.step(key, state.process)
        return once((process, self._quote(process, state.close, bar, params)))

    def _clear(
        self, key: jax.Array, state: MarketState, decision: Decision, quote: Quote, params: MarketParams
    ) -> Cleared:
        """Trim orders to what accounts can carry at the worst price, and match what is left."""
        tick_value = params.tick_value
        mechanism, admitted, refused = params.mechanism.admit(state.mechanism, decision.orders, quote)
        mechanism, admitted = once((mechanism, admitted))
        prices = params.mechanism.price_range(mechanism, admitted, quote)
        lowest, mid, highest = (price * tick_value for price in prices)
        agents = state.ledger.agents
        fee_rate, fixed_fee = params.costs.bound()
        exposure = margin.Exposure(
            equity=agents.cash.to_float() + total(agents.lots * mid, 1),
            mid=mid,
            highest=highest,
            lowest=lowest,
            fee_rate=fee_rate,
            fixed_fee=fixed_fee * params.quanta_per_unit,
            positions=agents.lots,
        )
        lots = once(margin.trim_slots(admitted.lots, exposure, self._limits(params)))
        orders = admitted.replace(lots=lots)
        mechanism, fills, bar = params.mechanism.clear(key, mechanism, orders, quote, tick_value)
        trimmed = total(total((lots != admitted.lots).astype(jnp.int32), 2), 1)
        return Cleared(
            mechanism=mechanism, fills=fills, bar=bar, mid=once(mid), orders_refused=refused, orders_trimmed=trimmed
        )

    def _settle(
        self,
        key: jax.Array,
        state: MarketState,
        decision: Decision,
        process: Any,
        quote: Quote,
        cleared: Cleared,
        params: MarketParams,
    ) -> tuple[MarketState, Transition]:
        """Move cash and lots, charge what is owed, mark at bar t+1, bury the bankrupt."""
        limits = self._limits(params)
        at_end = state.step + 1 >= params.episode_length
        book, cost = settlement.book(state.ledger, decision.called, quote, cleared, at_end, limits, params)
        mid = params.mechanism.mid(cleared.mechanism, quote) * params.tick_value
        book, cost, mid = once((book, cost, mid))
        accounts, transition = settlement.mark(state.accounts, book, mid, quote, cleared, cost, limits, params)
        if params.mechanism.makes_price:
            gain = settlement.value_gain(state, book, quote, cleared, self.private_values(state, params), params)
            transition = transition.replace(value_gain=gain)
        window = state.window.push(cleared.bar)
        indicated = _indicate(params, state.carries, window)
        flow = total(cleared.fills.bought - cleared.fills.sold, 0) / quote.depth_lots
        flow = params.flow_memory * state.flow + flow
        accounts, transition, (carries, features), flow = once((accounts, transition, indicated, flow))
        after = MarketState(
            step=state.step + 1,
            process=process,
            mechanism=cleared.mechanism,
            close=quote.bar.close,
            mid=mid,
            window=window,
            carries=carries,
            features=features,
            flow=flow,
            ledger=book,
            accounts=accounts,
            statistics=state.statistics,
            private=state.private.replace(signals=self.signals(key, quote.bar.close, params)),
        )
        return after, transition

    def _outcome(
        self,
        before: MarketState,
        state: MarketState,
        decision: Decision,
        cleared: Cleared,
        transition: Transition,
        params: MarketParams,
    ) -> Transitioned:
        """Rewards and the end of episodes."""
        acted, alive = before.accounts.alive, state.accounts.alive
        rewards = [
            sum((term.value(_rows(transition, rows)) for term in role.rewards), jnp.zeros(role.count))
            if role.learned
            else jnp.zeros(role.count)
            for role, rows in self._slices(params)
        ]
        reward = once(jnp.where(acted, jnp.concatenate(rewards), 0.0))
        at_limit = state.step >= params.episode_length
        terminal = params.horizon == "terminal"
        terminated = acted & (~alive | (at_limit & terminal))
        truncated = alive & at_limit & (not terminal)
        learned_alive = jnp.concatenate([alive[rows] for role, rows in self._slices(params) if role.learned])
        reset = at_limit | ~fold(jnp.logical_or, learned_alive)
        statistics = settlement.accumulate(before.statistics, reward, transition.cost, cleared)
        state = state.replace(statistics=statistics)
        info = {"acted": self._by_role(acted, params), "reset": reset} | settlement.report(state, decision, cleared)
        info["episode"] = {"return": self._by_role(statistics.reward, params), "length": state.step}
        by_role = [self._by_role(array, params) for array in (reward, terminated, truncated)]
        return state, by_role[0], by_role[1], by_role[2], info

    def market_view(self, state: MarketState, params: MarketParams) -> MarketView:
        """What everybody sees now."""
        announces = type(params.process).signal is not Process.signal
        return MarketView(
            window=state.window,
            features=state.features,
            mid=state.mid,
            depth_lots=params.process.liquidity(state.process).depth_lots,
            flow=state.flow,
            signal=params.process.signal(state.process) if announces else None,
            step=state.step,
            time_left=1.0 - state.step / params.episode_length,
            book=params.mechanism.book(state.mechanism),
            tick_value=params.tick_value,
        )

    def account_view(self, role: str, state: MarketState, params: MarketParams) -> AccountView:
        """What the agents of one role see of their own accounts now."""
        accounts = state.accounts
        everybody = AccountView(
            positions=state.ledger.agents.lots,
            cash=state.ledger.agents.cash.to_float(),
            equity=accounts.equity,
            initial_equity=accounts.initial_equity,
            peak_equity=accounts.peak_equity,
            entry_price=accounts.entry_price,
            limits=self._limits(params),
            orders=params.mechanism.own(state.mechanism),
        )
        index = [candidate.name for candidate in self.roles].index(role)
        traits = state.private.traits[index]
        return _rows(everybody, self.agent_slice(role)).replace(
            traits=traits,
            signal_ticks=state.private.signals[index],
            private_value=params.roles[index].private_value(traits),
        )

    def first_state(self, key: jax.Array, params: MarketParams) -> MarketState:
        """The state at the start of an episode. key: consumed."""
        process, bar = once(params.process.init(key, params.episode_length))
        n, n_assets = self.total_agents, bar.close.size
        quote = self._quote(process, bar.close, bar, params)
        mechanism = params.mechanism.init(bar.close, n, self._slots(params))
        mid = params.mechanism.mid(mechanism, quote) * params.tick_value
        book = settlement.endow(params)
        equity, at_mid, gross = settlement.valuation(book, mechanism, mid, quote, params)
        nothing = jnp.zeros(n)
        accounts = Accounts(
            equity=equity,
            equity_mid=at_mid,
            gross=gross,
            initial_equity=equity,
            peak_equity=equity,
            variance=nothing,
            entry_price=jnp.broadcast_to(mid, (n, n_assets)),
            alive=jnp.ones(n, bool),
        )
        window, carries, features = _warm_window(params, process, bar)
        return MarketState(
            step=jnp.zeros((), jnp.int32),
            process=process,
            mechanism=mechanism,
            close=bar.close,
            mid=mid,
            window=window,
            carries=carries,
            features=features,
            flow=jnp.zeros(n_assets),
            ledger=book,
            accounts=accounts,
            statistics=EpisodeStatistics(reward=nothing, cost=nothing, traded=nothing),
            private=Private(
                traits=tuple(role.draw_traits(fold_in(key, i)) for i, role in enumerate(params.roles)),
                signals=self.signals(fold_in(key, n), bar.close, params),
            ),
        )

    def signals(self, key: jax.Array, value_ticks: jax.Array, params: MarketParams) -> tuple[jax.Array | None, ...]:
        """What the agents of each role believe the asset is worth now. key: consumed."""
        return tuple(role.draw_signal(fold_in(key, i), value_ticks) for i, role in enumerate(params.roles))

    def private_values(self, state: MarketState, params: MarketParams) -> jax.Array:
        """What a lot is worth to each agent on top of its value, as a share of it, `[N]` float32."""
        pairs = zip(params.roles, state.private.traits, strict=True)
        values = [(role, role.private_value(traits)) for role, traits in pairs]
        return jnp.concatenate([jnp.zeros(role.count) if value is None else value for role, value in values])

    def _slots(self, params: MarketParams) -> int:
        """Order slots of each agent: as many as the role with the most uses."""
        return max(role.action.n_slots if role.learned else role.strategy.n_slots for role in params.roles)

    def _quote(self, process: Any, previous_close: jax.Array, bar: Bar, params: MarketParams) -> Quote:
        liquidity = params.process.liquidity(process)
        return Quote(
            previous_close=previous_close,
            bar=bar,
            depth_lots=liquidity.depth_lots,
            volatility=liquidity.volatility,
        )

    def _limits(self, params: MarketParams) -> margin.RiskLimits:
        """The limits of every agent, `[N]` leaves."""
        rows = [jax.tree.map(lambda x, n=role.count: jnp.full((n,), x), role.limits) for role in params.roles]
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *rows)

    def _slices(self, params: MarketParams) -> list[tuple[Role, slice]]:
        return [(role, self.agent_slice(role.name)) for role in params.roles]

    def _by_role(self, array: jax.Array, params: MarketParams) -> ByRole:
        return {role.name: array[rows] for role, rows in self._slices(params) if role.learned}

    def _action_shape(self, role: Role) -> tuple[int, ...]:
        space = self.action_space(role.name)
        return jax.eval_shape(lambda key: space.sample(key, (role.count,)), jax.random.key(0)).shape

    def _role(self, name: str) -> Role:
        for role in self.roles:
            if role.name == name:
                return role
        raise ValueError(f"unknown role {name!r}; known: {', '.join(role.name for role in self.roles)}")


def _rows(tree: Any, rows: slice) -> Any:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


def _indicate(params: MarketParams, carries: tuple[Any, ...], window: Window) -> tuple[Any, tuple[jax.Array, ...]]:
    carries, values = update_all(params.indicators, carries, window)
    pairs = zip(params.indicators, values, strict=True)
    return carries, tuple(indicator.features(value, window) for indicator, value in pairs)


def _warm_window(params: MarketParams, process: Any, bar: Bar) -> tuple[Window, Any, tuple[jax.Array, ...]]:
    """The window and indicators at the first bar: gathered from the recording, or empty in a synthetic world."""
    length = build.window_rows(params)
    history = params.process.warm_bars()
    if history is None:
        window = Window.start(bar, length)
        before = tuple(indicator.init(bar.close.size) for indicator in params.indicators)
    else:
        index = params.process.bar_index(process)
        window = Window.at(history, index, length)
        before = jax.tree.map(lambda leaf: leaf[index - 1], params.warm_carries)
    window, before = once((window, before))
    return window, *_indicate(params, before, window)
