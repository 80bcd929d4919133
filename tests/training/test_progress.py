import pytest
from training_world import RECIPE, clip, make_task

from steadyclip.core.progress import roughly, spell
from steadyclip.methods import get_method
from steadyclip.training import TrainConfig, fit, monitor


@pytest.fixture
def said(capsys):
    def run(**config) -> str:
        fit(clip(), get_method("lora"), make_task(), recipe=RECIPE, config=TrainConfig(log_every=2, **config))
        out, err = capsys.readouterr()
        assert out == ""
        return err

    return run


def test_off_a_terminal_there_are_plain_lines_now_and_then(said, monkeypatch) -> None:
    lines = said().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lora: step 7/7  loss ")
    assert "images/s" in lines[0]
    monkeypatch.setattr(monitor, "QUIET_SECONDS", 0.0)
    assert [line.split()[2] for line in said().splitlines()] == ["2/7", "4/7", "6/7", "7/7"]


def test_on_a_terminal_there_is_a_bar(said, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = said()
    assert "7/7" in text
    assert "loss" in text
    assert "\x1b[" in text


def test_it_can_be_silent(said) -> None:
    assert said(progress=False) == ""


def test_time_is_spelled_for_people() -> None:
    assert [spell(s) for s in (0, 59.6, 61, 3661)] == ["0 s", "1:00", "1:01", "1:01:01"]


def test_an_estimate_names_its_units() -> None:
    assert [roughly(s) for s in (0.2, 41, 402, 4695)] == ["1 s", "41 s", "7 min", "1 h 18 min"]
