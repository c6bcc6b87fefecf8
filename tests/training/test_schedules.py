"""Learning rates against closed forms and, step by step, PyTorch's schedulers."""

import math
import warnings

import pytest

from cnnzoo.config import RunConfig
from cnnzoo.errors import ConfigError
from cnnzoo.training.schedules import learning_rate, momentum, one_cycle, warm_restarts_share

STEPS = 7  # an epoch
EPOCHS = 30


def _config(**settings):
    return RunConfig(**{"model": "vgg16", "lr": 0.1, "epochs": EPOCHS} | settings)


def test_constant():
    config = _config(schedule="constant", lr=0.3)
    assert {learning_rate(config, step, STEPS) for step in range(EPOCHS * STEPS)} == {0.3}


@pytest.mark.parametrize(
    ("epoch", "steps"), [(0, 0), (59.9, 0), (60, 1), (119.5, 1), (120, 2), (179.9, 2), (180, 3), (199, 3)]
)
def test_sources_step_schedule(epoch, steps):
    rate = learning_rate(RunConfig(model="vgg16"), round(epoch * 10), 10)
    assert rate == pytest.approx(0.01 * 0.2**steps, rel=1e-15)


def test_steps_of_alexnet():
    config = RunConfig(model="alexnet")
    assert learning_rate(config, 299, 10) == 0.01
    assert learning_rate(config, 300, 10) == pytest.approx(0.001, rel=1e-15)
    assert learning_rate(config, 900, 10) == pytest.approx(1e-5, rel=1e-14)


def test_cosine():
    config = _config(schedule="cosine", lr=1.0, epochs=30, min_factor=0.2)
    assert learning_rate(config, 0, STEPS) == 1
    assert learning_rate(config, 15 * STEPS, STEPS) == pytest.approx(0.6, rel=1e-15)
    assert learning_rate(config, 10 * STEPS, STEPS) == pytest.approx(0.2 + 0.8 * 0.75, rel=1e-14)  # cos(pi / 3) = 1 / 2
    rates = [learning_rate(config, step, STEPS) for step in range(EPOCHS * STEPS)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(0.2, abs=1e-3)


def _pytorch_rates(make_scheduler, lr, steps):
    """Return the rate of each step under a scheduler of PyTorch, which `make_scheduler` makes for an optimizer."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=lr)
    scheduler = make_scheduler(torch.optim.lr_scheduler, optimizer)
    rates = []
    for step in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step + 1 < steps:
            scheduler.step()
    return rates


def _one_cycle(s, optimizer, steps=EPOCHS * STEPS):
    return s.OneCycleLR(
        optimizer, 0.1, total_steps=steps, pct_start=0.25, div_factor=10, final_div_factor=50, cycle_momentum=False
    )


# Settings, and the scheduler of PyTorch's that they stand for, stepped once a step.
SCHEDULES = {
    "step": (
        {"schedule": "step", "step_size": 4, "gamma": 0.3},
        lambda s, optimizer: s.StepLR(optimizer, 4 * STEPS, 0.3),
    ),
    "multi-step": (
        {"schedule": "multi-step", "milestones": [3, 4, 17], "gamma": 0.3},
        lambda s, optimizer: s.MultiStepLR(optimizer, [3 * STEPS, 4 * STEPS, 17 * STEPS], 0.3),
    ),
    "exponential": (
        {"schedule": "exponential", "gamma": 0.7},
        lambda s, optimizer: s.ExponentialLR(optimizer, 0.7 ** (1 / STEPS)),
    ),
    "cosine": (
        {"schedule": "cosine", "min_factor": 0.05},
        lambda s, optimizer: s.CosineAnnealingLR(optimizer, EPOCHS * STEPS, 0.005),
    ),
    "restarts of equal length": (
        {"schedule": "warm-restarts", "restart_epochs": 4, "restart_factor": 1},
        lambda s, optimizer: s.CosineAnnealingWarmRestarts(optimizer, 4 * STEPS, 1),
    ),
    "restarts of growing length": (
        {"schedule": "warm-restarts", "restart_epochs": 3, "restart_factor": 2, "min_factor": 0.1},
        lambda s, optimizer: s.CosineAnnealingWarmRestarts(optimizer, 3 * STEPS, 2, 0.01),
    ),
    "one-cycle": (
        {"schedule": "one-cycle", "pct_start": 0.25, "div_factor": 10, "final_div_factor": 50},
        _one_cycle,
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_step_has_pytorchs_rate(name):
    settings, make_scheduler = SCHEDULES[name]
    config = _config(**settings)
    expected = _pytorch_rates(make_scheduler, config.lr, EPOCHS * STEPS)
    rates = [learning_rate(config, step, STEPS) for step in range(EPOCHS * STEPS)]
    # PyTorch's follow from one another by a product a step.
    assert rates == pytest.approx(expected, rel=1e-9)
    assert len(set(rates)) > 3


def _pytorch_momenta(make_optimizer, key, read, steps):
    """Return the momentum of each step under PyTorch's one-cycle between 0.95 and 0.8."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    optimizer = make_optimizer(torch.optim, [torch.zeros(1)])
    cycle = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 0.1, total_steps=steps, pct_start=0.25, base_momentum=0.8, max_momentum=0.95
    )
    momenta = []
    for step in range(steps):
        momenta.append(read(optimizer.param_groups[0][key]))
        optimizer.step()
        if step + 1 < steps:
            cycle.step()
    return momenta


@pytest.mark.parametrize(
    ("settings", "make_optimizer", "key", "read"),
    [
        ({"momentum": 0.95}, lambda o, weights: o.SGD(weights, 0.1, momentum=0.95), "momentum", float),
        (
            {"optimizer": "adamw", "beta1": 0.95},
            lambda o, weights: o.AdamW(weights, 0.1, betas=(0.95, 0.999)),
            "betas",
            lambda betas: betas[0],
        ),
    ],
    ids=["sgd", "adamw"],
)
def test_every_step_of_one_cycle_has_pytorchs_momentum(settings, make_optimizer, key, read):
    config = _config(schedule="one-cycle", pct_start=0.25, base_momentum=0.8, **settings)
    expected = _pytorch_momenta(make_optimizer, key, read, EPOCHS * STEPS)
    momenta = [momentum(config, step, STEPS) for step in range(EPOCHS * STEPS)]
    assert momenta == pytest.approx(expected, rel=1e-12)
    assert min(momenta) == pytest.approx(0.8, abs=1e-4)


def test_momentum_falls_after_warm_up_and_only_in_one_cycle():
    config = _config(schedule="one-cycle", momentum=0.95, base_momentum=0.8, warmup_epochs=5)
    assert {momentum(config, step, STEPS) for step in range(5 * STEPS + 1)} == {0.95}
    assert momentum(config, 5 * STEPS + 1, STEPS) < 0.95
    for other in (config.replace(base_momentum=None), config.replace(schedule="cosine")):
        assert {momentum(other, step, STEPS) for step in range(EPOCHS * STEPS)} == {0.95}


def test_momentum_cannot_rise_at_the_peak():
    with pytest.raises(ConfigError, match=r"^base_momentum: expected at most the 0\.9 that it falls from, got 0\.95$"):
        _config(schedule="one-cycle", base_momentum=0.95)


@pytest.mark.parametrize("name", [name for name in SCHEDULES if name not in ("cosine", "one-cycle")])
def test_warm_up_comes_before_the_schedule_as_in_pytorchs_sequence(name):
    settings, make_scheduler = SCHEDULES[name]
    config = _config(**settings, warmup_epochs=2.5, warmup_start=0.1)
    warmup = round(2.5 * STEPS)

    def sequence(s, optimizer):
        first = s.LinearLR(optimizer, 0.1, total_iters=warmup)
        return s.SequentialLR(optimizer, [first, make_scheduler(s, optimizer)], [warmup])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch warns of its own call of step with an epoch
        expected = _pytorch_rates(sequence, config.lr, EPOCHS * STEPS)
    rates = [learning_rate(config, step, STEPS) for step in range(EPOCHS * STEPS)]
    assert rates == pytest.approx(expected, rel=1e-9)
    assert rates[0] == pytest.approx(0.01)
    assert rates[warmup] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "one-cycle"])
def test_schedules_that_end_with_the_run_end_with_it_after_warm_up_too(schedule):
    config = _config(schedule=schedule, warmup_epochs=5)
    short = _config(schedule=schedule, epochs=EPOCHS - 5)
    rates = [learning_rate(config, step, STEPS) for step in range(5 * STEPS, EPOCHS * STEPS)]
    assert rates == [learning_rate(short, step, STEPS) for step in range((EPOCHS - 5) * STEPS)]


def test_warm_up_longer_than_the_run():
    config = _config(epochs=1, warmup_epochs=2, warmup_start=0.0)
    assert [learning_rate(config, step, 4) for step in range(4)] == pytest.approx([0, 0.0125, 0.025, 0.0375])


@pytest.mark.parametrize(("epochs", "warmup"), [(200, 5), (20, 5), (8, 2), (1, 0.25)])
def test_scaled_rate_is_reached_by_five_epochs_or_a_quarter_of_the_run(epochs, warmup):
    config = _config(schedule="constant", epochs=epochs, ranks=4, scale_lr=True)
    rates = [learning_rate(config, step, 100) for step in range(100 * epochs)]
    assert rates[0] == pytest.approx(0.1)
    assert rates.index(0.4) == round(100 * warmup)
    assert rates[round(50 * warmup)] == pytest.approx(0.25, abs=0.01)
    assert set(rates[round(100 * warmup) :]) == {0.4}


def test_one_cycle_of_a_few_steps():
    for steps in (1, 2, 3):
        factors = [one_cycle(step, steps, 0.3, 0.04, 1.0, 4e-6) for step in range(steps)]
        assert all(0 < factor <= 1 for factor in factors)


def test_cycles_of_restarts():
    shares = [warm_restarts_share(epoch, 2, 3) for epoch in (0, 1, 2, 5, 8, 17)]
    assert shares == [0, 0.5, 0, 0.5, 0, 0.5]


def test_rate_that_overflows_is_infinite():
    assert learning_rate(_config(schedule="step", step_size=1, gamma=1e300), 2 * STEPS, STEPS) == math.inf
