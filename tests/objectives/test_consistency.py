"""The KL term against a loop, its gradient against the closed form."""

import math

import torch

from steadyclip.objectives import kl


def test_equals_a_loop_over_images_and_classes() -> None:
    torch.manual_seed(0)
    teacher, student = 3 * torch.randn(4, 5), 3 * torch.randn(4, 5)
    total = 0.0
    for t, s in zip(teacher.tolist(), student.tolist(), strict=True):
        p = [math.exp(v) / sum(map(math.exp, t)) for v in t]
        q = [math.exp(v) / sum(map(math.exp, s)) for v in s]
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    torch.testing.assert_close(float(kl(teacher, student)), total / 4, rtol=1e-5, atol=0)


def test_gradient_is_the_difference_of_the_softmaxes_and_the_teacher_gets_none() -> None:
    torch.manual_seed(0)
    teacher, student = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    kl(teacher, student).backward()
    assert student.grad is not None
    torch.testing.assert_close(student.grad, ((student.softmax(1) - teacher.softmax(1)) / 4).detach())
    assert teacher.grad is None


def test_zero_where_both_agree_and_finite_where_the_teacher_is_certain() -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]])
    assert kl(logits, logits) == 0
    assert torch.isfinite(kl(logits, -logits))
    assert kl(logits.bfloat16(), logits).dtype == torch.float32
