"""Algorithms chosen by measurement: from made-up times, kept and found again, and measured."""

import errno
import json
import os
import re
from dataclasses import replace

import numpy as np
import pytest

from cnnzoo import cross_entropy
from cnnzoo.errors import ConfigError
from cnnzoo.graph import measurements, tuning
from cnnzoo.graph.algorithms import Passes, choose_algorithms, list_candidates
from cnnzoo.graph.measurements import Measurements
from cnnzoo.graph.tuning import MeasuredPass, measure
from cnnzoo.kernels.compile import record_requests
from cnnzoo.kernels.convolution import ConvolutionShape
from cnnzoo.kernels.im2col import Im2col
from cnnzoo.models import create_model

FLOAT32 = np.dtype("float32")
SHAPE = ConvolutionShape(2, 8, 8, 16, 24, 3, 1, 1)
FEW_PIXELS = ConvolutionShape(3, 2, 2, 16, 24, 1)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder that keeps measurements."""
    monkeypatch.setattr(measurements, "cache_directory", lambda: tmp_path)
    return tmp_path


@pytest.fixture
def measured(monkeypatch):
    """Let im2col take 1 s for every pass, and the others 2 s; return the passes that were measured."""
    passes = []

    def take_times(p):
        passes.append(p)
        return {name: 1.0 if name == "im2col" else 2.0 for name in list_candidates(p.shape)}

    monkeypatch.setattr(tuning, "measure", take_times)
    return passes


def read_only_file(cache):
    (path,) = cache.iterdir()
    return path, json.loads(path.read_text())


def test_the_fastest_of_each_pass_is_pinned_for_that_batch_size(cache, measured):
    net = create_model("lenet5")
    found = net.tune(4)
    assert len(measured) == found.measured == 14  # 3 of each of 5 layers, but for the gradient of the images
    assert (found.known, found.ignored) == (0, None)
    by_table = choose_algorithms(ConvolutionShape(4, 28, 28, 1, 6, 5, 1, 2))
    assert net.algorithms() == found.algorithms
    assert net.algorithms()["conv2 @4"] == ["im2col"] * 3
    assert net.algorithms()["conv1 @4"] == list(by_table._replace(forward="im2col", weight_gradient="im2col"))
    net.forward(np.zeros((5, *net.image_shape), np.float32))
    other = create_model("lenet5")
    other.forward(np.zeros((5, *net.image_shape), np.float32))
    assert net.algorithms() == found.algorithms | other.algorithms()


def test_a_tuned_network_computes_what_its_pins_do(cache, measured):
    tuned, pinned = create_model("lenet5"), create_model("lenet5")
    pinned.pin_algorithms(tuned.tune(2).algorithms)
    images = np.random.default_rng(0).standard_normal((2, *tuned.image_shape), np.float32)
    for net in (tuned, pinned):
        net.backward(cross_entropy(net.forward(images, training=True), np.array([1, 2]))[1])
    for name, gradient in tuned.gradients().items():
        np.testing.assert_array_equal(pinned.gradients()[name], gradient)


@pytest.mark.parametrize(("gain", "chosen"), [(0.99, "winograd"), (0.96, "im2col")])
def test_the_cost_tables_choice_stands_unless_another_gains(cache, monkeypatch, gain, chosen):
    shape = ConvolutionShape(128, 32, 32, 64, 64, 3, 1, 1)
    assert choose_algorithms(shape).forward == "winograd"
    times = {"winograd": 1.0, "im2col": gain}
    monkeypatch.setattr(tuning, "measure", lambda p: {name: times.get(name, 2.0) for name in list_candidates(p.shape)})
    assert create_model("resnet18").tune(128).algorithms["layer1.0.conv1 @128"] == [chosen] * 3


def test_times_are_kept_and_not_measured_again(cache, measured):
    first = create_model("lenet5").tune(4)
    measured.clear()
    again = create_model("lenet5").tune(4)
    assert not measured
    assert again._replace(seconds=0.0) == first._replace(seconds=0.0, measured=0, known=first.measured)
    assert create_model("lenet5").tune(8).known == 0
    path, content = read_only_file(cache)
    assert str(path) == first.path
    assert content["conditions"] == measurements.describe_conditions()
    assert content["seconds"]["input_gradient 4x14x14 6-16 5x5/1 padding 0 groups 1 float32"]["im2col"] == 1.0


def test_times_that_cannot_be_kept_are_used(cache, measured, monkeypatch):
    def fail(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("cnnzoo.graph.measurements.write_atomically", fail)
    found = create_model("lenet5").tune(4)
    assert found.measured == len(measured) > 0
    assert f"{os.strerror(errno.ENOSPC)}: what is measured is not kept" in found.ignored


def test_other_threads_have_other_times(cache, measured, monkeypatch):
    path = create_model("lenet5").tune(4).path
    monkeypatch.setattr(measurements, "get_num_threads", lambda: 77)
    other = create_model("lenet5").tune(4)
    assert (other.measured, other.known, other.ignored) == (14, 0, None)
    assert other.path != path


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda content: "nonsense", "expected measurements of algorithms, found something else"),
        (lambda content: json.dumps([1]), "expected measurements of algorithms, found something else"),
        (lambda content: json.dumps(content | {"seconds": 5}), "expected measurements of algorithms, found something"),
        (lambda content: json.dumps(content)[:-9], "expected measurements of algorithms, found something else"),
        (
            lambda content: json.dumps(content | {"conditions": content["conditions"] | {"cpu": "another"}}),
            "expected measurements with cpu .+, got another$",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_measured_anew(cache, measured, damage, reason):
    first = create_model("lenet5").tune(4)
    path, content = read_only_file(cache)
    path.write_text(damage(content))
    again = create_model("lenet5").tune(4)
    assert (again.measured, again.known) == (14, 0)
    assert again.algorithms == first.algorithms
    assert Measurements().ignored is None
    assert read_only_file(cache)[1] == content
    assert re.match(f"{path}: {reason}", again.ignored)


@pytest.mark.parametrize(
    "entry", [5, {"im2col": 1.0}, {"im2col": 1.0, "winograd": -1.0}, {"im2col": 1.0, "winograd": "2"}]
)
def test_a_damaged_entry_is_measured_anew(cache, measured, entry):
    create_model("lenet5").tune(4)
    path, content = read_only_file(cache)
    name = "forward 4x28x28 1-6 5x5/1 padding 2 groups 1 float32 bias"
    path.write_text(json.dumps(content | {"seconds": content["seconds"] | {name: entry}}))
    again = create_model("lenet5").tune(4)
    assert (again.measured, again.known) == (1, 13)
    assert f"{name}: expected seconds of winograd, im2col, got" in again.ignored
    assert read_only_file(cache)[1] == content


def test_what_progress_raises_ends_it_and_nothing_is_pinned(cache, measured):
    told = []

    def progress(done, total):
        told.append((done, total))
        if done == 3:
            raise InterruptedError

    net = create_model("lenet5")
    with pytest.raises(InterruptedError):
        net.tune(4, progress)
    assert told == [(done, 14) for done in range(4)]
    assert net.algorithms() == {}
    told.clear()
    with pytest.raises(InterruptedError):
        net.tune(4, progress)
    assert told[0] == (0, 11)


def test_number_of_images_is_checked():
    for images in (0, -1, 2.0, "4", None):
        with pytest.raises(ConfigError, match="images: expected a whole number of 1 or more, got"):
            create_model("lenet5").tune(images)


def test_an_algorithm_by_name_contradicts_it():
    with pytest.raises(ConfigError, match="tune: expected no algorithm with it, got im2col"):
        create_model("lenet5", algorithm="im2col").tune(4)


@pytest.mark.parametrize("direction", Passes._fields)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_algorithm_is_measured(direction, dtype):
    plain = MeasuredPass(direction, SHAPE, np.dtype(dtype))
    assert measure(plain).keys() == {"winograd", "im2col"}
    full = plain._replace(shape=FEW_PIXELS, bias=True, batch_norm=True, statistics=True)
    seconds = measure(full)
    assert seconds.keys() == {"im2col", "dense"}
    assert all(0 < value < 1 for value in seconds.values())


def measure_alone(monkeypatch, p, algorithm):
    """Measure one algorithm; return the names of the kernels that are called beside what stands in for its own."""
    monkeypatch.setattr(tuning, "list_candidates", lambda shape: {algorithm.name: algorithm})
    with record_requests() as requests:
        measure(p)
    return {request.name for request in requests}


@pytest.mark.parametrize(
    ("shape", "name", "begins"),
    [
        (SHAPE, "winograd", True),
        (SHAPE, "im2col", True),
        (replace(SHAPE, stride=2), "im2col", False),
        (FEW_PIXELS, "dense", False),
    ],
)
@pytest.mark.parametrize("before", ["batch_norm", "mask", None])
def test_input_gradient_is_measured_with_the_backward_of_what_is_before_it(shape, name, begins, before, monkeypatch):
    """Of a batch norm or a ReLU; the algorithm begins it, or leaves all of it to kernels beside it."""
    epilogues = []

    class Watched(list_candidates(shape)[name]):
        def input_gradient(self, dy, lddy, w, dx, lddx, scratch, epilogue=None):
            epilogues.append(epilogue)

    plain = MeasuredPass("input_gradient", shape, FLOAT32)
    kernels = measure_alone(monkeypatch, plain._replace(**{before: True}) if before else plain, Watched)
    begun = {"batch_norm": {"merge_gradient_sums", "add_line"}, "mask": {"merge_gradient_sums"}}
    left = {
        "batch_norm": {"batch_norm_backward_sums", "merge_gradient_sums", "batch_norm_backward"},
        "mask": {"rectify_gradient"},
    }
    assert kernels == ((begun if begins else left)[before] if before else set())
    assert {epilogue is not None for epilogue in epilogues} == {begins and before is not None}


@pytest.mark.parametrize("rows", [None, 64])
def test_statistics_that_an_algorithm_does_not_collect_are_measured(rows, monkeypatch):
    collected = []

    class Watched(Im2col):
        def __init__(self, shape, dtype):
            super().__init__(shape, dtype)
            self.statistics_rows = rows

        def forward(self, *arguments, **extras):
            collected.append("statistics" in extras)

    kernels = measure_alone(monkeypatch, MeasuredPass("forward", SHAPE, FLOAT32, statistics=True), Watched)
    assert kernels == (set() if rows else {"batch_norm_statistics"})
    assert set(collected) == {rows is not None}


def test_layers_with_a_batch_norm_on_load_have_it_in_all_their_passes(cache, measured):
    """Those that read the images have no input gradient."""
    create_model("vgg16_bn").tune(128)
    wide = [p for p in measured if p.shape.height == 32 and p.shape.in_channels == 64]
    assert {p.direction: p.batch_norm for p in wide} == dict.fromkeys(Passes._fields, True)


def test_layers_that_mask_their_gradient_do_so_when_measured(cache, measured):
    """Those behind a convolution with a ReLU; behind a pool, and before the images, none does."""
    create_model("vgg16").tune(128)
    passes = {p.shape.in_channels: p.mask for p in measured if p.direction == "input_gradient" and p.shape.height == 16}
    assert passes == {64: False, 128: True}


def test_names_of_passes_tell_them_apart():
    p = MeasuredPass("forward", SHAPE, FLOAT32)
    others = [replace(SHAPE, **{field: 7}) for field in SHAPE.__dataclass_fields__]
    passes = [p, *(p._replace(shape=shape) for shape in others)]
    passes += [p._replace(**{extra: True}) for extra in ("bias", "batch_norm", "statistics", "mask")]
    passes += [p._replace(direction="weight_gradient"), p._replace(dtype=np.dtype("float64"))]
    assert len({str(p) for p in passes}) == len(passes)
