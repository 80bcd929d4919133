"""Names and knobs as typed by people."""

import pytest

from steadyclip.adapters import LowRank
from steadyclip.core.errors import UsageError
from steadyclip.methods import Recipe, get_method, methods
from steadyclip.methods.lora import LoRA


def test_every_method_says_what_it_is() -> None:
    for name, cls in methods().items():
        assert cls.name == name
        assert cls.summary
        assert cls.source
        assert cls.__doc__


def test_knobs_are_converted_from_text() -> None:
    method = get_method("lora", {"rank": "4", "alpha": "2", "layers": "q,v", "towers": "image"})
    assert method == LoRA(adapters=(LowRank("image", rank=4, alpha=2.0, layers=("q", "v")),))
    assert get_method("linear-probe", {"strength": "none"}).knobs()["strength"] is None
    assert get_method("linear-probe", {"strength": "2"}).knobs()["strength"] == 2.0


@pytest.mark.parametrize(
    ("name", "knobs", "line"),
    [
        ("lroa", {}, "unknown method 'lroa'. Did you mean 'lora'?"),
        ("lora", {"rnak": 3}, "method 'lora' has no knob 'rnak'. Did you mean 'rank'?"),
        ("lora", {"rank": "two"}, "knob rank='two' of method 'lora' must be a whole number."),
        ("lora", {"rank": "2.5"}, "knob rank='2.5' of method 'lora' must be a whole number."),
        ("lora", {"towers": "left"}, "must be one of both, image, text."),
        ("lora", {"layers": "q,x"}, "must be one of q, k, v, out, fc1, fc2."),
        ("lora", {"rank": 0}, "knob rank=0 of 'low_rank' must be at least 1."),
        ("lora", {"dropout": "1.5"}, "knob dropout=1.5 of 'low_rank' must be from 0 to below 1."),
    ],
)
def test_mistakes_are_one_clear_line(name: str, knobs: dict, line: str) -> None:
    with pytest.raises(UsageError) as caught:
        get_method(name, knobs)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_length_of_a_training() -> None:
    assert Recipe(steps=7).total_steps(1000, 10) == 7
    assert Recipe(steps_per_shot=500).total_steps(images=160, classes=10) == 8000
    assert Recipe(epochs=2, batch_size=32).total_steps(images=100, classes=10) == 7
    with pytest.raises(ValueError, match="exactly one"):
        Recipe(steps=1, epochs=1)
