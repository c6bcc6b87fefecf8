"""One step: accumulation, clipping, averaging, and what happens when numbers are no longer finite."""

import math

import numpy as np
import pytest

from cnnzoo.config import RunConfig
from cnnzoo.errors import DivergenceError
from cnnzoo.training.averaging import WeightAverage
from cnnzoo.training.metrics import Tally
from cnnzoo.training.optimizers import SGD
from cnnzoo.training.step import Stepper
from cnnzoo.training.trainer import Trainer
from tests.training.stand_ins import LinearNetwork

SHAPE = (3, 4, 5)


def _make(lr=0.1, **options):
    net = LinearNetwork(10, SHAPE, "float64")
    return net, Stepper(net, SGD(net, lr), **options)


def _make_batch(images, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((images, *SHAPE)), rng.integers(0, 10, images)


def test_batches_of_a_step_count_by_their_images():
    """Two batches of different size are one batch of all their images."""
    images, labels = _make_batch(9)
    (whole, one_batch), (parts, two_batches) = _make(), _make()
    tallies = [Tally(10), Tally(10)]
    norms = [
        one_batch.take([(images, labels)], 9, tallies[0]),
        two_batches.take([(images[:6], labels[:6]), (images[6:], labels[6:])], 9, tallies[1]),
    ]
    np.testing.assert_allclose(parts.parameter_arena, whole.parameter_arena, rtol=1e-13, atol=1e-15)
    assert norms[0] == pytest.approx(norms[1], rel=1e-13)
    assert tallies[0].metrics.loss == pytest.approx(tallies[1].metrics.loss, rel=1e-13)
    assert [tally.images for tally in tallies] == [9, 9]


def test_clipped_gradient_has_the_limit_as_its_norm():
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    images, labels = _make_batch(8)
    net, stepper = _make(lr=1.0, clip_norm=0.25)
    start = net.parameter_arena.copy()
    norm = stepper.take([(images, labels)], 8, Tally(10))
    assert norm > 0.25
    change = start - net.parameter_arena
    assert np.linalg.norm(change) == pytest.approx(0.25, rel=1e-12)
    w = torch.tensor(start)
    w.grad = torch.tensor(net.gradient_arena)
    assert float(torch.nn.utils.clip_grad_norm_([w], 0.25)) == pytest.approx(norm, rel=1e-12)
    np.testing.assert_allclose(change, w.grad.numpy(), rtol=1e-5)  # PyTorch adds 1e-6 to the norm


def test_gradient_below_the_limit_is_left_alone():
    images, labels = _make_batch(8)
    (free, plain), (clipped, stepper) = _make(), _make(clip_norm=1e3)
    for taken in (plain, stepper):
        taken.take([(images, labels)], 8, Tally(10))
    np.testing.assert_array_equal(clipped.parameter_arena, free.parameter_arena)


def test_average_follows_its_equation():
    net = LinearNetwork(10, SHAPE, "float64")
    net.buffers["running_mean"] = np.zeros(3)
    average = WeightAverage(net, 0.3)
    expected, statistics = net.parameter_arena.copy(), np.zeros(3)
    rng = np.random.default_rng(0)
    for step in range(1, 6):
        net.parameter_arena[:] += rng.standard_normal(net.parameter_arena.size)
        net.buffers["running_mean"][:] += step
        average.update(step)
        decay = min(0.3, (1 + step) / (10 + step))  # below 0.3 in the first two steps
        expected = decay * expected + (1 - decay) * net.parameter_arena
        statistics = decay * statistics + (1 - decay) * net.buffers["running_mean"]
    np.testing.assert_allclose(average.arena, expected, rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(average.buffers["running_mean"], statistics, rtol=1e-13)


def test_average_equals_pytorchs():
    """After the first steps, in which its decay grows."""
    torch = pytest.importorskip("torch", reason="compares with PyTorch")
    net = LinearNetwork(10, SHAPE, "float64")
    average = WeightAverage(net, 0.9)
    module = torch.nn.Linear(1, net.parameter_arena.size, bias=False, dtype=torch.float64)
    weight = module.weight.data[:, 0]
    weight[:] = torch.tensor(net.parameter_arena)
    peer = torch.optim.swa_utils.AveragedModel(module, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    peer.update_parameters(module)
    rng = np.random.default_rng(0)
    for step in range(100, 105):
        net.parameter_arena[:] += rng.standard_normal(net.parameter_arena.size)
        weight[:] = torch.tensor(net.parameter_arena)
        average.update(step)
        peer.update_parameters(module)
    np.testing.assert_allclose(average.arena, peer.module.weight.data[:, 0].numpy(), rtol=1e-12, atol=1e-13)


def test_average_is_lent_and_taken_back_after_an_error_too():
    net = LinearNetwork(10, SHAPE)
    average = WeightAverage(net, 0.9)
    start = net.parameter_arena.copy()
    net.parameter_arena[:] = 7

    def interrupt_while_lent():
        with average.applied():
            np.testing.assert_array_equal(net.parameter_arena, start)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt_while_lent()
    np.testing.assert_array_equal(net.parameter_arena, 7)
    np.testing.assert_array_equal(average.arena, start)


class _Diverging(LinearNetwork):
    """Moves a running statistic and the random step as real networks do, and breaks at some pass."""

    def __init__(self, broken_pass, value, gradient):
        super().__init__(10, SHAPE)
        self.buffers["running_mean"] = np.zeros(1, np.float32)
        self._broken_pass, self._value, self._gradient = broken_pass, value, gradient

    def forward(self, images, training=False):
        logits = super().forward(images, training).astype(np.float32)
        self.random_step += 1
        self.buffers["running_mean"] += 1
        if self.random_step == self._broken_pass and not self._gradient:
            logits[0] = self._value
        return logits

    def backward(self, dlogits, accumulate=False, on_gradient=None):
        super().backward(dlogits, accumulate, on_gradient)
        if self.random_step == self._broken_pass and self._gradient:
            self.gradient_arena[-1] = self._value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (False, "^expected a finite loss, got nan, which comes from fc$"),
        (True, "^expected finite gradients, got .*bias$"),
    ],
)
@pytest.mark.parametrize("broken_pass", [1, 2])
def test_what_is_not_finite_leaves_everything_as_before_the_step(value, gradient, message, broken_pass):
    net = _Diverging(broken_pass, value, gradient)
    optimizer = SGD(net, 0.1, 0.9)
    average, tally = WeightAverage(net, 0.9), Tally(10)
    start = net.parameter_arena.copy()
    images, labels = _make_batch(8)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]
    with pytest.raises(DivergenceError, match=message):
        Stepper(net, optimizer, average=average).take(batches, 8, tally)
    np.testing.assert_array_equal(net.parameter_arena, start)
    np.testing.assert_array_equal(average.arena, start)
    np.testing.assert_array_equal(optimizer.state["velocity"], 0)
    assert (optimizer.steps, net.random_step, tally.images) == (0, 0, 0)
    assert net.buffers["running_mean"] == 0


@pytest.mark.parametrize("broken_pass", [1, 2])
def test_gradient_that_float16_broke_says_so(broken_pass):
    """All batches of the step are looked at, each with its own draws."""
    net = _Diverging(2, math.nan, gradient=True)
    net.storage = "float16"
    images, labels = _make_batch(8)
    batches = [(images[:4], labels[:4]), (images[4:], labels[4:])]

    def find(images, stored):
        assert stored
        assert images is batches[net.random_step - 1][0]
        return "conv" if net.random_step == broken_pass else None

    net.find_not_finite = find
    message = (
        r"^expected finite gradients, got nan, first in that of fc\.bias; storage float16 holds values from -65,504 to "
        "65,504, and the output of conv larger ones$"
    )
    with pytest.raises(DivergenceError, match=message):
        Stepper(net, SGD(net, 0.1)).take(batches, 8, Tally(10))
    assert net.random_step == 0


@pytest.mark.usefixtures("linear")
def test_divergence_names_its_place_and_keeps_the_last_good_checkpoint(data, tmp_path):
    config = RunConfig(
        model="linear", data_dir=data, batch_size=30, epochs=2, checkpoint_minutes=0, output_dir=tmp_path
    )
    trainer = Trainer(config)
    backward, saved = trainer.net.backward, []

    def backward_that_breaks(dlogits, accumulate, on_gradient):
        backward(dlogits, accumulate, on_gradient)
        if trainer.state.position.epoch == 1 and trainer.state.position.batch == 1:
            saved.append((trainer.history.folder / "checkpoints" / "last.safetensors").read_bytes())
            trainer.net.gradient_arena[0] = np.nan

    trainer.net.backward = backward_that_breaks
    with pytest.raises(DivergenceError) as raised:
        trainer.fit()
    last = trainer.history.folder / "checkpoints" / "last.safetensors"
    assert str(raised.value) == (
        "epoch 2, step 2: expected finite gradients, got nan, first in that of fc.weight, "
        f"at a learning rate of 0.01; a lower one may help; {last} is from before"
    )
    assert last.read_bytes() == saved[0]
    assert Trainer(config, resume=last).fit().test is not None


@pytest.mark.usefixtures("linear")
def test_weights_that_are_not_finite_are_not_saved(data, tmp_path):
    """The last step of an epoch can overflow without a loss that shows it."""
    config = RunConfig(model="linear", data_dir=data, epochs=1, validation=0, output_dir=tmp_path)
    trainer = Trainer(config)
    step = trainer.optimizer.step

    def step_that_overflows(scale):
        step(scale)
        trainer.net.parameter_arena[-1] = np.inf

    trainer.optimizer.step = step_that_overflows
    with pytest.raises(DivergenceError, match=r"expected finite weights to save, found others, first in fc\.bias"):
        trainer.fit()
    assert Trainer(config.replace(dataset="cifar10"), resume=trainer.history.folder).state.position.batch == 0
