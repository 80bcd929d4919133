import json
import math

import pytest
import torch

from steadyclip.training.monitor import Losses


class NotFinite(Exception):
    """What the training raises."""


def filled(values, losses=None) -> Losses:
    losses = losses or Losses(lambda v: v, NotFinite)
    for step, (a, b) in values:
        losses.add(step, {"a": torch.tensor(a), "b": torch.tensor(b)})
    return losses


def test_a_row_has_the_means_since_the_last_one() -> None:
    losses = filled([(0, (1.0, 3.0)), (1, (2.0, 5.0))])
    assert losses.log(2, speed=7.0) == {"step": 2, "loss": 5.5, "terms": {"a": 1.5, "b": 4.0}, "speed": 7.0}
    filled([(2, (8.0, 0.0))], losses)
    assert losses.log(3)["loss"] == 8.0
    assert [row["step"] for row in losses.rows] == [2, 3]


def test_looking_in_between_changes_no_row() -> None:
    losses = filled([(0, (1.0, 3.0))])
    losses.look()
    assert filled([(1, (2.0, 5.0))], losses).log(2)["loss"] == 5.5


def test_state_survives_json_in_mid_interval() -> None:
    losses = filled([(0, (0.1, 0.2)), (1, (0.3, 0.7))])
    other = Losses(lambda v: v, NotFinite)
    other.restore(json.loads(json.dumps(losses.state())))
    assert filled([(2, (0.9, 0.8))], losses).log(3) == filled([(2, (0.9, 0.8))], other).log(3)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_the_first_bad_step_is_told(bad) -> None:
    losses = filled([(4, (1.0, 1.0)), (5, (1.0, bad)), (6, (bad, bad))])
    with pytest.raises(NotFinite) as caught:
        losses.look()
    step, message = caught.value.args
    assert step == 5
    assert message.startswith("the loss is not finite at step 5 (a = 1, b = ")


def test_other_terms_than_before_are_a_bug_of_the_method() -> None:
    losses = filled([(0, (1.0, 1.0))])
    with pytest.raises(ValueError, match=r"at step 1 \(a\) than before \(a, b\)"):
        losses.add(1, {"a": torch.tensor(1.0)})


def test_values_are_summed_over_processes_before_they_are_read() -> None:
    losses = filled([(0, (1.0, 3.0))], Losses(lambda values: values * 2, NotFinite))
    assert losses.log(1)["loss"] == 8.0
