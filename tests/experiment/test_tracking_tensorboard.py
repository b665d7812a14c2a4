import struct

import pytest

from jaxarena.experiment.tracking import follow

pytest.importorskip("tensorboardX", reason="tensorboardX is not installed: pip install 'jaxarena[tracking]'")
from tensorboardX.proto.event_pb2 import Event  # after the check above


def events(folder):
    """Everything in the event files of a folder, oldest file first: a length, its checksum, an event, its checksum."""
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            yield Event.FromString(data[place + 12 : place + 12 + length])
            place += 12 + length + 4


def scalars(folder, name):
    """What TensorBoard shows of a scalar: the START of a session hides what earlier files have from its step on."""
    shown = []
    for event in events(folder):
        if event.HasField("session_log"):
            shown = [(step, value) for step, value in shown if step < event.step]
        shown += [(event.step, value.simple_value) for value in event.summary.value if value.tag == name]
    return shown


def test_everything_arrives(tracked, write_records, finish_run):
    config, folder = tracked(["tensorboard"])
    with follow(config, folder):
        write_records(folder, [8, 16])
        finish_run(folder)
    written = folder.path / "tracking" / "tensorboard"
    assert scalars(written, "loss/careful") == [(8, 8.0), (16, 16.0)]
    assert scalars(written, "eval/roles/bold/sharpe") == [(16, 0.5)]
    assert scalars(written, "return/bold") == []
    values = {value.tag: value for event in events(written) for value in event.summary.value}
    assert values["plots/equity"].image.encoded_image_string.startswith(b"\x89PNG")
    assert b"ppo.lr: 0.001" in values["config/text_summary"].tensor.string_val[0]


def test_each_seed_has_a_folder_of_its_own(tracked, write_records):
    config, folder = tracked(["tensorboard"], "seeds=2", "seed=5")
    with follow(config, folder):
        write_records(folder, [8], seeds=2)
    written = folder.path / "tracking" / "tensorboard"
    assert scalars(written / "seed_5", "loss/careful") == [(8, 8.0)]
    assert scalars(written / "seed_6", "loss/careful") == [(8, 8.5)]


def test_a_resumed_run_shows_each_step_once_even_when_its_memory_is_older_than_its_files(tracked, write_records):
    config, folder = tracked(["tensorboard"])
    memory = folder.path / "tracking" / "tensorboard.json"
    with follow(config, folder):
        write_records(folder, [8, 16, 24])
    memory.write_text(
        memory.read_text().replace('"step": 24', '"step": 16')
    )  # as after a kill between writing and remembering
    with follow(config, folder):
        write_records(folder, [24, 32], after=16)
    shown = scalars(folder.path / "tracking" / "tensorboard", "loss/careful")
    assert [step for step, _ in shown] == [8, 16, 24, 32]


def test_a_disk_that_was_full_for_a_while_costs_one_warning_and_no_number(tracked, write_records, capsys, monkeypatch):
    import tensorboardX.event_file_writer as writer

    flush, full = writer.EventsWriter.flush, [OSError(28, "No space left on device")]

    def full_at_first(file):
        if full:
            raise full.pop()
        return flush(file)

    monkeypatch.setattr(writer.EventsWriter, "flush", full_at_first)
    config, folder = tracked(["tensorboard"])
    with follow(config, folder):
        write_records(folder, [8, 16])
    (line,) = capsys.readouterr().err.splitlines()
    assert "tensorboard failed (OSError: [Errno 28] No space left on device)" in line
    assert scalars(folder.path / "tracking" / "tensorboard", "loss/careful") == [(8, 8.0), (16, 16.0)]
