import pytest

from jaxarena.experiment import config as module
from jaxarena.experiment.config import ExperimentConfig, dump_config, load_config, merge

PRESET = """\
data: {source: us_daily, symbols: [AAPL]}
market:
  process: {kind: gbm, n_assets: 1, volatility: 0.4}
  costs: {kind: proportional_fees, fee_bps: 7}
  roles: [{name: fund}]
"""


@pytest.fixture
def presets(monkeypatch, tmp_path):
    """A package folder with one preset."""
    folder = tmp_path / "package" / "presets"
    folder.mkdir(parents=True)
    (folder / "Quiet-v0.yaml").write_text(PRESET)
    monkeypatch.setattr(module.importlib.resources, "files", lambda _: tmp_path / "package")


def test_file_becomes_typed(config_file):
    config = load_config(config_file)
    assert isinstance(config, ExperimentConfig)
    assert config.ppo.lr == 1e-3
    assert config.ppo.hidden == (8,)
    assert config.train.agent_steps == 4000
    assert config.market.process.kind() == "gbm"
    assert config.market.roles[0].count == 2
    assert [baseline.kind() for baseline in config.evaluation.baselines] == ["buy_and_hold", "random"]
    assert config.groups == {"careful": ("careful",), "bold": ("bold",)}
    assert config.data is None


def test_dump_loads_back_equal(config_file, tmp_path):
    config = load_config(config_file, ["policies={all: [careful, bold]}", "data={symbols: [IBM]}", "run_dir=1e6x"])
    again = tmp_path / "again.yaml"
    again.write_text(dump_config(config))
    assert load_config(again) == config
    assert dump_config(load_config(again)) == dump_config(config)
    assert load_config(again, ["market.process.volatility=0.31"]) != config


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("ppo.lr=3e-4", lambda c: c.ppo.lr, 3e-4),
        ("train.agent_steps=1e6", lambda c: c.train.agent_steps, 1_000_000),
        ("market.roles.0.count=4", lambda c: c.market.roles[0].count, 4),
        ("market.roles.1.limits.max_leverage=2", lambda c: c.market.roles[1].limits.max_leverage, 2.0),
        ("ppo.hidden=[16, 16]", lambda c: c.ppo.hidden, (16, 16)),
        ("market.process={kind: gbm, volatility: 0.1}", lambda c: c.market.process.volatility, 0.1),
        ("market.roles.2.strategy.trade_probability=0.9", lambda c: c.market.roles[2].strategy.trade_probability, 0.9),
        ("data.symbols=[AAPL, IBM]", lambda c: c.data.symbols, ("AAPL", "IBM")),
        ("policies.both=[careful, bold]", lambda c: c.groups, {"both": ("careful", "bold")}),
        ("run_dir=null", lambda c: c.run_dir, None),
        ("name=a=b".replace("=b", "-b"), lambda c: c.name, "a-b"),
    ],
)
def test_overrides(config_file, override, read, value):
    assert read(load_config(config_file, [override])) == value


def test_the_last_override_wins(config_file):
    assert load_config(config_file, ["ppo={lr: 0.5}", "ppo.lr=0.1", "ppo.epochs=2"]).ppo.lr == 0.1


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.lrr=1", r"override 'ppo\.lrr=1': ppo: unknown key 'lrr'; did you mean 'lr'\?"),
        ("pppo.lr=1", r"override 'pppo\.lr=1': unknown key 'pppo'; did you mean 'ppo'\?"),
        ("ppo.lr=fast", r"override 'ppo\.lr=fast': ppo\.lr: expected a number, got 'fast'"),
        ("market.roles.0.count=many", r"override .*: market\.roles\[0\]\.count: expected a whole number"),
        ("market.process=hestn", r"override .*: market\.process: unknown process 'hestn'"),
        ("market.roles.7.count=1", r"override .*: market\.roles is a list; allowed here is 0 to 2"),
        ("seed.x=1", r"override 'seed\.x=1': seed is 3, which has no 'x'"),
        ("ppo.lr", r"expected dotted\.path=value"),
        (".lr=1", r"expected dotted\.path=value"),
        ("ppo.hidden=[1,", r"override 'ppo\.hidden=\[1,': .*not valid YAML"),
        ("ppo.minibatches=5", r"override .*: ppo\.minibatches: got 5, which does not divide .* 8 x 4"),
        ("train.checkpoint_every_s=0", r"override .*: train\.checkpoint_every_s: got 0"),
        ("train.markets=0", r"override .*: train\.markets: got 0"),
        ("train.agent_steps=0", r"train\.agent_steps: got 0"),
        ("train.updates_per_chunk=0", r"train\.updates_per_chunk: got 0"),
        ("train.keep_checkpoints=0", r"train\.keep_checkpoints: got 0"),
        ("seeds=0", r"override 'seeds=0': seeds: got 0"),
        ("seed=-1", r"seed: got -1"),
        ("name=a/b", r"name: got 'a/b'; it names the run folder"),
        ("tracking=[tensorbord]", r"tracking\[0\]: unknown tracker 'tensorbord'; did you mean 'tensorboard'"),
        ("policies={all: [careful, blod]}", r"unknown learned role 'blod'; did you mean 'bold'\?"),
        ("policies={all: [careful, bold, crowd]}", r"unknown learned role 'crowd'"),
        ("policies={a: [careful, bold], b: [bold]}", r"role 'bold' already follows the policy 'a'"),
        ("policies={a: [careful]}", r"no group holds the learned role 'bold'"),
        ("policies={a: [careful, bold], b: []}", r"policies\.b: has no role"),
        ("evaluation.markets=0", r"evaluation\.markets: got 0"),
        ("evaluation.baselines=[learned]", r"evaluation\.baselines\[0\]: 'learned' is not a baseline"),
        ("evaluation.baselines=[by_and_hold]", r"unknown strategy 'by_and_hold'; did you mean 'buy_and_hold'"),
        ("data={train: [2000-01-01, 1999-01-01]}", r"data\.train: start 2000-01-01 lies after end 1999-01-01"),
    ],
)
def test_refused_with_the_override_the_path_and_the_remedy(config_file, override, message):
    with pytest.raises(ValueError, match=message):
        load_config(config_file, [override])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("lr: 1e-3", "learning_rate: 1e-3", r"tiny\.yaml: ppo: unknown key 'learning_rate'"),
        ("seed: 3", "seed: x", r"tiny\.yaml: seed: expected a whole number, got 'x'"),
        ("seed: 3", "seed: 3\nseed: 4", r"tiny\.yaml: line 3: key 'seed' was already given in line 2"),
        ("name: bold", "nam: bold", r"tiny\.yaml: market\.roles\[1\]: unknown key 'nam'; did you mean 'name'"),
        ("market:", "markt:", r"tiny\.yaml: key 'market' is missing"),
        ("kind: gbm", "kind: gbn", r"tiny\.yaml: market\.process: unknown process 'gbn'; did you mean 'gbm'"),
    ],
)
def test_errors_in_a_file_name_it(config_file, old, new, message):
    config_file.write_text(config_file.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        load_config(config_file, ["ppo.epochs=2"])


def test_missing_and_odd_files(tmp_path):
    with pytest.raises(ValueError, match=r"none\.yaml: cannot read"):
        load_config(tmp_path / "none.yaml")
    (tmp_path / "list.yaml").write_text("[1, 2]")
    with pytest.raises(ValueError, match=r"list\.yaml: expected a mapping of settings"):
        load_config(tmp_path / "list.yaml")


@pytest.mark.usefixtures("presets")
def test_preset_lies_under_the_file(config_file):
    config_file.write_text("preset: Quiet-v0\nmarket: {process: {volatility: 0.5}}\n")
    config = load_config(config_file, ["market.process.n_assets=3"])
    assert (config.market.process.volatility, config.market.process.n_assets) == (0.5, 3)
    assert config.market.costs.fee_bps == 7.0
    assert config.data.symbols == ("AAPL",)


@pytest.mark.usefixtures("presets")
def test_preset_from_the_command_line_alone():
    assert [role.name for role in load_config(None, ["preset=Quiet-v0"]).market.roles] == ["fund"]


@pytest.mark.usefixtures("presets")
def test_unknown_preset(config_file):
    with pytest.raises(ValueError, match=r"unknown preset 'Quiet-v1'; did you mean 'Quiet-v0'"):
        load_config(config_file, ["preset=Quiet-v1"])
    with pytest.raises(ValueError, match=r"key 'market' is missing.*known: Quiet-v0"):
        load_config(None)


def test_another_kind_replaces_the_part_below():
    below = {"process": {"kind": "gbm", "volatility": 1}, "roles": [1, 2], "x": {"a": 1}}
    above = {"process": {"kind": "heston", "kappa": 2}, "roles": [3], "x": {"b": 2}}
    assert merge(below, above) == {"process": {"kind": "heston", "kappa": 2}, "roles": [3], "x": {"a": 1, "b": 2}}
    assert below["process"] == {"kind": "gbm", "volatility": 1}
    assert merge({"p": {"kind": "gbm", "a": 1}}, {"p": {"b": 2}}) == {"p": {"kind": "gbm", "a": 1, "b": 2}}
    assert merge({"p": {"kind": "gbm"}}, {"p": "replay"}) == {"p": "replay"}
