"""One settle step of a dealer market, slowly: Python ints for money and lots, float64 for values.

Rates are float32 in the library, so they are formed in float32 here too; every amount is then
`ceil(float64 product)`. Each account is kept by itself, from the amounts that concern it.
"""

import dataclasses
import math

import numpy as np

F = np.float32
BPS = F(1e-4)


@dataclasses.dataclass
class Rules:
    """The parameters that money depends on, as the user writes them."""

    half_spread_bps: float = 0.0
    permanent: float = 0.0
    transient: float = 0.0
    decay: float = 0.7
    linear_temporary: float = 0.0
    depth: float = 1.0
    fee_bps: float = 0.0
    fixed_fee: float = 0.0
    borrow_rate: float = 0.0
    deposit_rate: float = 0.0
    short_fee: float = 0.0
    steps_per_year: float = 252.0
    quanta_per_unit: int = 1
    tick_values: tuple = (1,)
    penalty_bps: tuple = ()  # per agent


def scale_up(amount, rate):
    return math.ceil(float(amount) * float(F(rate)))


def fill_move(rules, participation):
    """LinearImpact: half of the lasting move, and the temporary one."""
    return (
        F(0.5) * F(F(rules.permanent) + F(rules.transient)) * participation + F(rules.linear_temporary) * participation
    )


def fill_cash(lots, ticks, tick_value, rate, half_spread_bps):
    """What a fill pays (-) or receives (+); a price is never negative."""
    exact = lots * ticks * tick_value
    side = (lots > 0) - (lots < 0)
    return -(exact + scale_up(exact, max(F(rate) + F(side) * (F(half_spread_bps) * BPS), F(-1.0))))


def fee(rules, cash, lots):
    if lots == 0:
        return 0
    return scale_up(abs(cash), F(rules.fee_bps) * BPS) + round(float(F(rules.fixed_fee)) * rules.quanta_per_unit)


def interest(rules, cash, short_value):
    """What an agent owes the lender; negative when the lender pays."""
    dt = F(1.0) / F(rules.steps_per_year)
    rate = F(rules.borrow_rate if cash < 0 else rules.deposit_rate) * dt
    return scale_up(-cash, rate) + scale_up(short_value, F(rules.short_fee) * dt)


class Market:
    """Five accounts and the dealer's memory."""

    def __init__(self, rules, cash, lots):
        self.rules = rules
        self.cash = list(cash)  # of each agent
        self.lots = [list(row) for row in lots]
        n_assets = len(self.lots[0])
        self.exchange_cash = self.lender_cash = self.dealer_cash = 0
        self.issuer_cash = -sum(cash)
        self.issuer_lots = [-sum(row[a] for row in lots) for a in range(n_assets)]
        self.dealer_lots = [0] * n_assets
        self.net = [0] * n_assets  # what agents bought, net, for impact
        self.transient = [F(0.0)] * n_assets

    def move(self, asset):
        return F(self.rules.permanent) * (F(self.net[asset]) / F(self.rules.depth)) + self.transient[asset]

    def settle(self, lots, called, fill_ticks, close_ticks):
        """Book one step of given fills; returns the amounts by name, for tests that look closer."""
        agents, assets = range(len(self.cash)), range(len(self.net))
        rules = self.rules
        flow = [sum(lots[n][a] for n in agents) for a in assets]
        rates = [self.move(a) + fill_move(rules, F(flow[a]) / F(rules.depth)) for a in assets]
        cash = [
            [
                fill_cash(lots[n][a], fill_ticks[a], rules.tick_values[a], rates[a], rules.half_spread_bps)
                for a in assets
            ]
            for n in agents
        ]
        fees = [sum(fee(rules, cash[n][a], lots[n][a]) for a in assets) for n in agents]
        penalties = [
            scale_up(sum(abs(cash[n][a]) for a in assets), F(rules.penalty_bps[n]) * BPS) if called[n] else 0
            for n in agents
        ]
        for n in agents:
            self.lots[n] = [held + traded for held, traded in zip(self.lots[n], lots[n], strict=True)]
            self.cash[n] += sum(cash[n]) - fees[n] - penalties[n]
        owed, deficits = [], []
        for n in agents:
            short_value = sum(max(-self.lots[n][a], 0) * close_ticks[a] * rules.tick_values[a] for a in assets)
            owed.append(interest(rules, self.cash[n], short_value))
            self.cash[n] -= owed[n]
            deficits.append(max(-self.cash[n], 0) if not any(self.lots[n]) else 0)
            self.cash[n] += deficits[n]

        self.exchange_cash += sum(fees) + sum(penalties)
        self.lender_cash += sum(owed) - sum(deficits)
        self.dealer_cash -= sum(sum(row) for row in cash)
        for a in assets:
            self.dealer_lots[a] -= flow[a]
            self.net[a] += flow[a]
            kick = F(rules.transient) * (F(flow[a]) / F(rules.depth))
            self.transient[a] = F(rules.decay) * (self.transient[a] + kick)
        return {"fees": fees, "penalties": penalties, "interest": owed, "deficits": deficits, "cash": cash}

    def equity_mid(self, agent, close_ticks):
        """At the close as the agents' flow has moved it, float64 quanta."""
        pairs = zip(self.lots[agent], close_ticks, self.rules.tick_values, strict=True)
        return self.cash[agent] + sum(q * p * v * (1.0 + float(self.move(a))) for a, (q, p, v) in enumerate(pairs))

    def equity(self, agent, close_ticks):
        """Net of what closing alone would cost."""
        total = self.equity_mid(agent, close_ticks)
        for a, q in enumerate(self.lots[agent]):
            own = float(fill_move(self.rules, F(-q) / F(self.rules.depth)))
            side = (q > 0) - (q < 0)
            total += q * close_ticks[a] * self.rules.tick_values[a] * (own - side * self.rules.half_spread_bps * 1e-4)
        return total


def dealer_cost(trades, impact, half_spread=0.0, root=0.0, decay=0.0, xp=np):
    """Cash a coalition pays a dealer over a schedule at the flat price 1, by the documented formula; differentiable.

    Args:
        trades: `[T, N]` signed trades over depth; the coalition is flat when each column sums to zero.
        impact: (permanent, transient, linear temporary) coefficients.
        half_spread: fraction of the price.
        root: square-root coefficient times volatility.
        decay: share of the transient move that survives a step.
        xp: numpy or jax.numpy.
    """
    permanent, transient, linear = impact
    net, fading, paid = 0.0, 0.0, 0.0
    for row in trades:
        flow = row.sum()
        size = xp.sqrt(xp.abs(flow) + 1e-12) * xp.sign(flow)
        price = 1.0 + permanent * net + fading + 0.5 * (permanent + transient) * flow + linear * flow + root * size
        paid = paid + (row * price + half_spread * xp.abs(row)).sum()
        net = net + flow
        fading = decay * (fading + transient * flow)
    return paid
