"""Learning rates against closed forms and PyTorch's schedulers."""

import math

import pytest

from cnnzoo.config import RunConfig
from cnnzoo.training.schedules import cosine_factor, learning_rate, step_factor


def test_constant():
    config = RunConfig(model="vgg16", schedule="constant", lr=0.3)
    assert {learning_rate(config, epoch) for epoch in (0, 0.5, 100, 199.99)} == {0.3}


@pytest.mark.parametrize(
    ("epoch", "steps"), [(0, 0), (59.999, 0), (60, 1), (119.5, 1), (120, 2), (179.9, 2), (180, 3), (199, 3)]
)
def test_sources_step_schedule(epoch, steps):
    assert learning_rate(RunConfig(model="vgg16"), epoch) == pytest.approx(0.01 * 0.2**steps, rel=1e-15)


def test_step_factor_of_alexnet():
    config = RunConfig(model="alexnet")
    assert learning_rate(config, 29.99) == 0.01
    assert learning_rate(config, 30) == pytest.approx(0.001, rel=1e-15)
    assert step_factor(90, 30, 0.1) == pytest.approx(1e-3, rel=1e-15)


def test_cosine():
    assert cosine_factor(0, 200) == 1
    assert cosine_factor(100, 200) == pytest.approx(0.5, abs=1e-15)
    assert cosine_factor(200, 200) == pytest.approx(0, abs=1e-15)
    assert cosine_factor(200 / 3, 200) == pytest.approx(0.75, rel=1e-14)  # cos(pi / 3) = 1 / 2
    rates = [cosine_factor(epoch / 10, 20) for epoch in range(201)]
    assert rates == sorted(rates, reverse=True)


@pytest.mark.parametrize("schedule", ["step", "cosine"])
def test_epochs_agree_with_pytorch(schedule):
    torch = pytest.importorskip("torch")
    config = RunConfig(model="vgg16", schedule=schedule, lr=0.1, epochs=30, step_size=7, gamma=0.3)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=config.lr)
    if schedule == "step":
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, config.step_size, config.gamma)
    else:
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.epochs)
    for epoch in range(config.epochs):
        assert math.isclose(learning_rate(config, epoch), scheduler.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        scheduler.step()
