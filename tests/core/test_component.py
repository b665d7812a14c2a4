"""Families find their members by name, and every registered member survives the way through YAML."""

import subprocess
import sys

import jax
import numpy as np
import pytest
import yaml

import jaxarena.env.env  # noqa: F401 - registers every family of a market
from jaxarena.core.component import Component, families
from jaxarena.core.tree import as_arrays
from jaxarena.market.costs import CostModel, LinearImpact, ProportionalFees
from jaxarena.market.dealer import Dealer

FAMILIES = families()
MEMBERS = [(family, kind) for family, base in sorted(FAMILIES.items()) for kind in sorted(base.members)]


@pytest.mark.parametrize(("family", "kind"), MEMBERS)
def test_every_member_survives_the_way_through_yaml(family, kind):
    member = FAMILIES[family].members[kind]()
    text = yaml.safe_dump(member.encode())
    back = FAMILIES[family].decode(yaml.safe_load(text), family)
    assert type(back) is type(member)
    assert jax.tree.structure(as_arrays(back)) == jax.tree.structure(as_arrays(member))
    for got, expected in zip(jax.tree.leaves(back), jax.tree.leaves(member), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert back.encode() == member.encode()


def test_every_family_of_the_package_has_members():
    expected = {"process", "mechanism", "cost", "impact", "indicator", "action", "observation", "reward", "strategy"}
    assert expected <= set(FAMILIES)
    assert all(FAMILIES[family].members for family in expected)
    assert not any(kind.startswith("_") for _, kind in MEMBERS)


def test_changed_and_nested_parameters_survive_too():
    dealer = Dealer(half_spread_bps=(1.0, 2.5), impact=LinearImpact(permanent=0.25), fill="same_close")
    back = Dealer.decode(yaml.safe_load(yaml.safe_dump(dealer.encode())), "mechanism")
    assert (back.half_spread_bps, back.impact.permanent, back.fill) == ((1.0, 2.5), 0.25, "same_close")
    arrays = as_arrays(dealer)
    again = Dealer.decode(arrays.encode(), "mechanism")
    assert again.half_spread_bps == (1.0, 2.5)
    assert again.impact.decay == np.float32(0.7)


def test_a_name_alone_and_a_ready_component_are_accepted():
    assert type(CostModel.decode("proportional_fees", "costs")) is ProportionalFees
    ready = ProportionalFees(fee_bps=3.0)
    assert CostModel.decode(ready, "costs") is ready


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("proportional_fee", r"costs: unknown cost 'proportional_fee'; did you mean 'proportional_fees'\? known: .*"),
        ({"kind": "proportional_fees", "fee_bp": 1}, r"costs: unknown key 'fee_bp'; did you mean 'fee_bps'\?"),
        ({"kind": "proportional_fees", "fee_bps": "x"}, r"costs\.fee_bps: expected a number"),
        ({"fee_bps": 1}, r"costs: expected the name of a cost or a mapping with 'kind'.*known: "),
        (3, r"costs: expected the name of a cost"),
        ({"kind": "no.such.module:Fees"}, r"costs: cannot load 'no\.such\.module:Fees'"),
        ({"kind": "jaxarena.market.costs:NoSuchFees"}, r"costs: cannot load"),
        ({"kind": "jaxarena.market.dealer:Dealer"}, r"costs: 'jaxarena\.market\.dealer:Dealer' is not a cost"),
        ({"kind": 3}, r"costs: .*3"),
        ({"kind": None}, r"costs: .*None"),
    ],
)
def test_mistakes_are_named(value, message):
    with pytest.raises(ValueError, match=message):
        CostModel.decode(value, "costs")


def test_a_class_outside_the_package_is_reached_by_its_path(tmp_path):
    """In a fresh process, as when a run is resumed: nothing but the encoded text says where the class is."""
    (tmp_path / "my_fees.py").write_text(
        "from jaxarena.market.costs import ProportionalFees\n"
        "class MyFees(ProportionalFees):\n    surcharge: float = 0.5\n"
    )
    encode = (
        "import yaml\nfrom jaxarena.market.costs import CostModel\n"
        "print(yaml.safe_dump(CostModel.decode({'kind': 'my_fees:MyFees', 'surcharge': 0.75}, 'costs').encode()))"
    )
    text = _python(encode, tmp_path)
    decode = (
        "import yaml\nfrom jaxarena.market.costs import CostModel\n"
        f"print(CostModel.decode(yaml.safe_load({text!r}), 'costs').surcharge)"
    )
    assert _python(decode, tmp_path).strip() == "0.75"


def test_kind_is_snake_case():
    class HTTPRule2D:
        pass

    assert Component.kind.__func__(HTTPRule2D) == "http_rule2_d"


def _python(program, folder):
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
