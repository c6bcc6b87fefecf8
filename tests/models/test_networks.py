"""Whole networks by themselves: names, training and inference, batches of changing size, order of calls."""

import numpy as np
import pytest

import cnnzoo
from cnnzoo.errors import ModelError, StateError
from tests.graph.steps import assert_close, assert_equal, fill_arena, make_batch, randomize, relative_error, run_step

MODELS = ["vgg16", "vgg16_bn", "resnet18"]
PARAMETERS = {"vgg16": 15_245_130, "vgg16_bn": 15_249_354, "resnet18": 11_173_962}
BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def list_vgg_names(normalize):
    """Return torchvision's names: the modules of `features` are counted, ReLUs and pools with them."""
    names, module = [], 0
    for convolutions in (2, 2, 3, 3, 3):
        for _ in range(convolutions):
            names.append(f"features.{module}.weight")
            if normalize:
                names += [f"features.{module + 1}.{kind}" for kind in BATCH_NORM]
            else:
                names.append(f"features.{module}.bias")
            module += 3 if normalize else 2
        module += 1
    return names + [f"classifier.{module}.{kind}" for module in (0, 3, 6) for kind in ("weight", "bias")]


def list_resnet18_names():
    names = ["conv1.weight", *(f"bn1.{kind}" for kind in BATCH_NORM), "fc.weight", "fc.bias"]
    for block in (f"layer{stage}.{number}" for stage in (1, 2, 3, 4) for number in (0, 1)):
        names += [f"{block}.conv1.weight", f"{block}.conv2.weight"]
        names += [f"{block}.{bn}.{kind}" for bn in ("bn1", "bn2") for kind in BATCH_NORM]
    for stage in (2, 3, 4):
        names.append(f"layer{stage}.0.downsample.0.weight")
        names += [f"layer{stage}.0.downsample.1.{kind}" for kind in BATCH_NORM]
    return names


@pytest.mark.parametrize("name", MODELS)
def test_names_and_number_of_parameters(name):
    net = cnnzoo.create_model(name)
    names = list_resnet18_names() if name == "resnet18" else list_vgg_names(name == "vgg16_bn")
    state = net.state_dict()
    assert sorted(state) == sorted(names)
    parameters = [key for key in names if not key.rpartition(".")[2].startswith("running")]
    assert sorted(net.parameter_names) == sorted(net.gradients()) == sorted(parameters)
    assert net.num_parameters == sum(state[key].size for key in parameters) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "lr", "part_left"),
    [("vgg16", 0.001, 0.1), ("vgg16_bn", 0.01, 0.02), ("resnet18", 0.01, 0.02), ("mobilenetv1", 0.01, 0.1)],
)
def test_loss_falls_when_a_batch_is_repeated(name, lr, part_left):
    """Without batch norm a rate of 0.01 is so high that rounding decides whether it falls within 20 steps."""
    net = cnnzoo.create_model(name, dropout=0.0)
    optimizer = cnnzoo.SGD(net, lr=lr, momentum=0.9)
    images, labels = make_batch(net, 8)
    losses = []
    for _ in range(20):
        losses.append(run_step(net, images, labels)[0])
        optimizer.step()
    assert losses[-1] < part_left * losses[0]


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"])
def test_dropout_acts_in_training_alone(name):
    net = cnnzoo.create_model(name)
    images, _ = make_batch(net, 4)
    # Another pass, other masks; the same number of the pass, the same masks.
    first, second = net.forward(images, training=True), net.forward(images, training=True)
    net.random_step = 0
    again = net.forward(images, training=True)
    assert relative_error(second, first) > 0.1
    np.testing.assert_array_equal(again, first)
    # Inference draws nothing.
    step = net.random_step
    logits = net.forward(images)
    np.testing.assert_array_equal(net.forward(images), logits)
    assert net.random_step == step
    other = cnnzoo.create_model(name, seed=1)
    other.load_state_dict(net.state_dict())
    np.testing.assert_array_equal(other.forward(images), logits)
    assert relative_error(other.forward(images, training=True), first) > 0.1  # masks come from the seed


def test_without_dropout_and_batch_norm_the_modes_agree():
    net = cnnzoo.create_model("vgg16", dropout=0.0)
    images, _ = make_batch(net, 4)
    np.testing.assert_array_equal(net.forward(images, training=True), net.forward(images))


@pytest.mark.parametrize("name", ["vgg16_bn", "resnet18"])
def test_batch_statistics_are_used_and_gathered_in_training_alone(name):
    net = cnnzoo.create_model(name, dropout=0.0)
    randomize(net)
    images, _ = make_batch(net, 4)
    before = net.state_dict()
    inference = net.forward(images)
    assert_equal(net.state_dict(), before)
    training = net.forward(images, training=True)
    after = net.state_dict()
    assert relative_error(training, inference) > 0.1
    for key, array in after.items():
        assert np.array_equal(array, before[key]) == (".running_" not in key), key
    # In training an image's logits depend on the others of its batch, in inference they do not.
    assert relative_error(net.forward(images[:2], training=True), training[:2]) > 0.01
    assert relative_error(net.forward(images[:2]), net.forward(images)[:2]) < 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_batches_of_changing_size(name):
    """A smaller and a larger batch after others give what a fresh network gives, bit for bit."""
    net = cnnzoo.create_model(name, seed=2)
    optimizer = cnnzoo.SGD(net, lr=0.01)
    for images in (5, 3, 7, 5):
        state, step = net.state_dict(), net.random_step
        batch = make_batch(net, images, seed=images)
        loss, logits = run_step(net, *batch)
        fresh = cnnzoo.create_model(name, seed=2)
        fresh.load_state_dict(state)
        fresh.random_step = step
        expected_loss, expected_logits = run_step(fresh, *batch)
        assert loss == expected_loss
        np.testing.assert_array_equal(logits, expected_logits, strict=True)
        assert_equal(net.gradients(), fresh.gradients())
        assert_equal(net.state_dict(), fresh.state_dict())
        optimizer.step()


@pytest.mark.parametrize("name", MODELS)
def test_memory_is_written_before_it_is_read(name):
    nets = [cnnzoo.create_model(name) for _ in range(2)]
    fill_arena(nets[0], 3, training=True)
    results = [run_step(net, *make_batch(net, 3)) for net in nets]
    assert results[0][0] == results[1][0]
    assert_equal(nets[0].gradients(), nets[1].gradients())
    fill_arena(nets[0], 3, training=False)
    logits = [net.forward(make_batch(net, 3)[0]) for net in nets]
    np.testing.assert_array_equal(*logits)
    assert np.isfinite(logits).all()


@pytest.mark.parametrize("name", MODELS)
def test_gradients_accumulate(name):
    net = cnnzoo.create_model(name, dtype="float64", dropout=0.0)
    batches = [make_batch(net, 3, seed) for seed in (0, 1)]
    parts = []
    for batch in batches:
        run_step(net, *batch)
        parts.append(net.gradients())
    run_step(net, *batches[0])
    run_step(net, *batches[1], accumulate=True)
    assert_close(net.gradients(), {key: parts[0][key] + parts[1][key] for key in parts[0]}, 1e-12)
    run_step(net, *batches[1])
    assert_equal(net.gradients(), parts[1])


def test_halves_of_a_batch_add_up_to_it():
    """Without batch norm, the mean of two halves' gradients is the whole batch's."""
    net = cnnzoo.create_model("vgg16", dtype="float64", dropout=0.0)
    images, labels = make_batch(net, 6)
    run_step(net, images, labels)
    whole = net.gradients()
    run_step(net, images[:3], labels[:3])
    run_step(net, images[3:], labels[3:], accumulate=True)
    assert_close({key: array / 2 for key, array in net.gradients().items()}, whole, 1e-10)


def test_what_is_returned_is_the_callers():
    net = cnnzoo.create_model("resnet18")
    images, labels = make_batch(net, 2)
    copy = images.copy()
    _, logits = run_step(net, images, labels)
    np.testing.assert_array_equal(images, copy)
    kept = logits.copy()
    for read in (net.gradients, net.state_dict):
        before = read()
        for array in read().values():
            array[...] = 7
        assert_equal(read(), before)
    gradients, state = net.gradients(), net.state_dict()
    saved = {key: array.copy() for key, array in (gradients | state).items()}
    run_step(net, images[::-1] + 1, labels)
    cnnzoo.SGD(net, lr=1.0).step()
    np.testing.assert_array_equal(logits, kept)
    assert_equal(gradients | state, saved)


def test_images_of_any_layout_and_type():
    net = cnnzoo.create_model("resnet18")
    images, _ = make_batch(net, 3)
    logits = net.forward(images)
    read_only = images.copy()
    read_only.flags.writeable = False
    channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    mirrored_twice = np.ascontiguousarray(images[..., ::-1])[..., ::-1]
    for same in (read_only, channels_last, mirrored_twice, images.astype(np.float64), images.astype(">f4")):
        np.testing.assert_array_equal(net.forward(same), logits, strict=True)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 32, 31), r"^resnet18: expected images of shape \[N, 3, 32, 32\] with N > 0, got \(2, 3, 32, 31\)$"),
        ((2, 1, 32, 32), r"got \(2, 1, 32, 32\)$"),
        ((3, 32, 32), r"got \(3, 32, 32\)$"),
        ((0, 3, 32, 32), r"got \(0, 3, 32, 32\)$"),
    ],
)
def test_images_that_do_not_fit(shape, message):
    with pytest.raises(ModelError, match=message):
        cnnzoo.create_model("resnet18").forward(np.zeros(shape, np.float32))


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, bool, complex])
def test_images_that_are_not_normalized(dtype):
    with pytest.raises(ModelError, match=r"^resnet18: expected normalized images of a floating type, got "):
        cnnzoo.create_model("resnet18").forward(np.zeros((1, 3, 32, 32), dtype))


def test_backward_follows_forward_in_training():
    net = cnnzoo.create_model("resnet18")
    images, labels = make_batch(net, 2)
    message = "^backward: expected a forward pass with training=True just before it, got none$"
    dlogits = np.zeros((2, 10), np.float32)
    with pytest.raises(StateError, match=message):
        net.backward(dlogits)
    run_step(net, images, labels)
    gradients = net.gradients()
    with pytest.raises(StateError, match=message):
        net.backward(dlogits)
    for evaluated in (images, np.concatenate([images] * 4)):  # the second one needs a larger arena
        net.forward(images, training=True)
        net.forward(evaluated)
        with pytest.raises(StateError, match=message):
            net.backward(dlogits)
    assert_equal(net.gradients(), gradients)
    run_step(net, images, labels)
    assert_equal(net.gradients(), gradients)


def test_bad_arguments_leave_the_forward_pass_valid():
    net = cnnzoo.create_model("resnet18")
    images, labels = make_batch(net, 2)
    run_step(net, images, labels)
    gradients = net.gradients()
    _, dlogits = cnnzoo.cross_entropy(net.forward(images, training=True), labels)
    with pytest.raises(ModelError, match=r"^dlogits: expected shape \(2, 10\), got \(3, 10\)$"):
        net.backward(np.zeros((3, 10)))
    with pytest.raises(ModelError, match=r"^dlogits: expected shape \(2, 10\), got \(20,\)$"):
        net.backward(np.zeros(20))
    with pytest.raises(ModelError, match=r"^dlogits: expected a floating type, got complex128$"):
        net.backward(np.zeros((2, 10), complex))
    with pytest.raises(ModelError, match=r"^resnet18: expected images"):
        net.forward(np.zeros((2, 3, 8, 8), np.float32))
    net.backward(dlogits)
    assert_equal(net.gradients(), gradients)


def test_not_a_number_is_passed_on():
    net = cnnzoo.create_model("resnet18")
    images, labels = make_batch(net, 4)
    images[0, 0, 5, 5] = np.nan
    loss, logits = run_step(net, images, labels)
    assert np.isnan(loss)
    assert np.isnan(logits).all()  # through the batch's statistics
    assert np.isnan(net.gradients()["conv1.weight"]).any()
    fresh = cnnzoo.create_model("resnet18")
    logits = fresh.forward(images)
    assert np.isnan(logits[0]).all()
    assert np.isfinite(logits[1:]).all()
