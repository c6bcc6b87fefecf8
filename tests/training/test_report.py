"""The page of a run: whole and self-contained; its pictures, its charts, and what a run writes beside it."""

import base64
import csv
import dataclasses
import io
import json
import re
import struct
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest

from cnnzoo.config import list_settings
from cnnzoo.data import Dataset, Split
from cnnzoo.errors import ConfigError
from cnnzoo.training import report, tensorboard
from cnnzoo.training.charts import Line, draw_confusion, draw_lines
from cnnzoo.training.checkpoint import read_header
from cnnzoo.training.history import EpochRecord
from cnnzoo.training.observer import Observer, Observers
from cnnzoo.training.png import encode_png
from cnnzoo.training.trainer import Trainer

pytestmark = pytest.mark.usefixtures("linear")

VOID = {"meta", "br", "img"}


class Page(HTMLParser):
    """Checks that tags match, and keeps the texts, the tags and their attributes."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        if text.strip():
            self.texts.append(text.strip())


@pytest.fixture
def fitted(make_config):
    trainer = Trainer(make_config(lr=0.01, schedule="cosine"))
    return trainer, trainer.fit()


def read_page(folder):
    return Page((folder / "report.html").read_text())


def test_page_needs_nothing_beside_itself(fitted):
    _, history = fitted
    text = (history.folder / "report.html").read_text()
    page = Page(text)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    for _, attributes in page.tags:
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
    assert "url(" not in text
    assert "@import" not in text


def test_page_says_what_the_run_was(fitted):
    trainer, history = fitted
    page = read_page(history.folder)
    said = "\n".join(page.texts)
    assert trainer.dataset.source in said
    assert f"{history.test.accuracy:.2%}" in page.texts
    low, high = history.test.accuracy_interval
    assert f"{low:.2%} to {high:.2%} (95%, Wilson)" in page.texts
    assert f"with the weights of epoch {history.best.epoch}: the best on 10 training images" in said
    for name in list_settings():
        assert name in page.texts
    assert "cosine" in page.texts
    assert trainer.environment["cpu"] in said
    assert trainer.dataset.fingerprint() in said
    headings = [text for text in page.texts if text in ("Training", "Confusion matrix", "Classes", "Worst mistakes")]
    assert headings == ["Training", "Confusion matrix", "Classes", "Worst mistakes"]


def test_mistakes_are_shown_as_they_are(fitted):
    trainer, history = fitted
    images = [attributes for tag, attributes in read_page(history.folder).tags if tag == "img"]
    assert len(images) == len(history.test.mistakes) > 0
    for attributes, mistake in zip(images, history.test.mistakes, strict=True):
        content = base64.b64decode(attributes["src"].removeprefix("data:image/png;base64,"))
        assert content == encode_png(trainer.dataset.test.images[mistake.index])
        assert attributes["alt"] == f"test image {mistake.index}: {trainer.dataset.classes[mistake.label]}"


def test_page_is_there_after_each_epoch(make_config):
    seen = []

    class Look(Observer):
        def run_started(self, trainer, history):
            self.folder = history.folder

        def epoch_done(self, record):
            seen.append("\n".join(read_page(self.folder).texts))

    Trainer(make_config(), Look()).fit()
    assert ["1 of 3 epochs are done" in seen[0], "2 of 3 epochs are done" in seen[1]] == [True, True]
    assert "Confusion matrix" not in seen[2]


def test_momentum_is_drawn_where_it_changes(make_config):
    for base, times in ((None, 0), (0.8, 1)):
        history = Trainer(make_config(epochs=1, schedule="one-cycle", base_momentum=base)).fit()
        assert read_page(history.folder).texts.count("Momentum by epoch") == times


def test_level_line_stands_on_an_axis_from_0():
    svg = draw_lines("Rate", [Line(label="rate", points=[(1, 0.01), (2, 0.01)])], format_y=str, last=2)
    assert _numbers(svg, r'class="tick end"[^>]*>([\d.]+)<')[0] == (0.0,)
    assert len(set(_numbers(svg, r'cy="([\d.]+)"'))) == 1


def test_page_of_a_run_without_validation(make_config):
    history = Trainer(make_config(validation=0, epochs=1)).fit()
    said = "\n".join(read_page(history.folder).texts)
    assert "with the weights of the last epoch; none was chosen by its results" in said
    assert "dashed line" not in said


def test_names_are_escaped(fitted, tmp_path):
    trainer, history = fitted
    dataset = dataclasses.replace(trainer.dataset, classes=tuple(f"<b>&{i}" for i in range(10)), source="<i>")
    run = report.Run(
        dataset=dataset, environment={"x": "<u>"}, parameters=1, train_images=1, validation_images=1, steps_per_epoch=1
    )
    report.write_report(tmp_path / "a.html", history, run)
    page = Page((tmp_path / "a.html").read_text())
    assert "<b>&3" in page.texts
    assert "<i>" in page.texts
    assert not {"i", "u"} & {tag for tag, _ in page.tags}


def test_network_without_mistakes(fitted, tmp_path):
    trainer, history = fitted
    history.test = dataclasses.replace(history.test, confusion=np.diag(np.arange(10)), mistakes=())
    run = report.Run(
        dataset=trainer.dataset, environment={}, parameters=1, train_images=1, validation_images=1, steps_per_epoch=1
    )
    report.write_report(tmp_path / "a.html", history, run)
    texts = Page((tmp_path / "a.html").read_text()).texts
    assert "There are none." in texts
    assert "100.00%" in texts


def test_records_as_csv_and_as_json_lines_agree(fitted):
    _, history = fitted
    lines = (history.folder / "metrics.jsonl").read_text().splitlines()
    assert [EpochRecord(**json.loads(line)) for line in lines] == history.epochs
    with open(history.folder / "metrics.csv", newline="") as file:
        assert [float(row["train_loss"]) for row in csv.DictReader(file)] == [e.train_loss for e in history.epochs]


def test_environment_tells_the_data(fitted):
    trainer, history = fitted
    environment = json.loads((history.folder / "environment.json").read_text())
    assert environment["data"]["sha256"] == trainer.dataset.fingerprint()
    assert environment == json.loads(json.dumps(trainer.environment))
    assert environment["memory"] is None or environment["memory"] > 10**8


def test_fingerprint_is_that_of_the_data():
    split = Split(images=np.zeros((2, 1, 2, 2), np.uint8), labels=np.zeros(2, np.int64))
    other = Split(images=np.zeros((2, 1, 2, 2), np.uint8), labels=np.array([0, 1]))
    sets = [
        Dataset(name="x", train=train, test=split, classes=("a", "b"), mean=(0,), std=(1,), source="x")
        for train in (split, split, other)
    ]
    first, same, changed = (dataset.fingerprint() for dataset in sets)
    assert first == same != changed


@pytest.mark.parametrize("channels", [1, 3])
def test_png_is_what_others_read(channels):
    pixels = np.random.default_rng(0).integers(0, 256, (channels, 5, 7), dtype=np.uint8)
    content = encode_png(pixels)
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    place, kinds = 8, []
    while place < len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        body = content[place + 4 : place + 8 + length]
        assert zlib.crc32(body) == int.from_bytes(content[place + 8 + length : place + 12 + length], "big")
        place += 12 + length
        kinds.append(kind)
    assert kinds == [b"IHDR", b"IDAT", b"IEND"]
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    read = np.asarray(image.open(io.BytesIO(content)))
    np.testing.assert_array_equal(read.reshape(5, 7, channels), np.moveaxis(pixels, 0, 2))


def _numbers(svg, pattern):
    """Return the numbers in the groups of each match."""
    return [tuple(map(float, match.groups())) for match in re.finditer(pattern, svg)]


def test_line_is_to_scale():
    line = Line(label="train", points=[(1, 0.0), (2, 1.0), (5, 0.25)])
    svg = draw_lines("A title & more", [line], format_y=str, last=5, mark=2)
    assert 'aria-label="A title &amp; more"' in svg
    (x1, y1), (x2, y2), (x3, y3) = _numbers(svg, r'<circle [^>]*cx="([\d.]+)" cy="([\d.]+)"')
    assert (x2 - x1) * 4 == pytest.approx(x3 - x1, abs=0.5)
    assert (y1 - y3) * 4 == pytest.approx(y1 - y2, abs=0.5)
    assert y2 < y3 < y1
    assert _numbers(svg, r'class="mark" x1="([\d.]+)"') == [(x2,)]
    ticks = re.findall(r'class="tick end"[^>]*>([^<]*)<', svg)
    assert ticks == ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]
    assert "<title>train, epoch 5: 0.25</title>" in svg


@pytest.mark.parametrize(
    "points",
    [
        [(1, 0.0)],
        [(1, 5.0)],
        [(1, 1e-9), (2, 1e-9)],
        [(1, 2.3), (2, 2.3000000000000003)],
        [(1, 5e-324)],
        [(1, -3.0), (2, 1e6)],
    ],
)
def test_any_values_can_be_drawn(points):
    svg = draw_lines("x", [Line(label="train", points=points)], format_y=str, last=points[-1][0])
    assert "nan" not in svg
    heights = [y for _, y in _numbers(svg, r'<circle [^>]*cx="([\d.-]+)" cy="([\d.-]+)"')]
    assert len(heights) == len(points)
    assert all(0 <= y <= 250 for y in heights)


def test_labels_of_lines_do_not_touch():
    lines = [Line(label=name, points=[(1, 1.0), (2, y)]) for name, y in (("train", 0.5), ("validation", 0.501))]
    svg = draw_lines("x", lines, format_y=str, last=2)
    (first,), (second,) = _numbers(svg, r'class="label \w+" x="[\d.]+" y="([\d.]+)"')
    assert second - first >= 15


def test_confusion_has_a_cell_for_each_pair():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 4, 12]])
    svg = draw_confusion(confusion, ("cat", "dog", "c<b"))
    opacities = [value for (value,) in _numbers(svg, r'fill-opacity="([\d.]+)"')]
    expected = np.sqrt(confusion / np.array([[4], [1], [16]])).reshape(-1)
    np.testing.assert_allclose(opacities, expected, atol=1e-3)
    assert "<title>cat taken for dog: 1 (25.0%)</title>" in svg
    assert "<title>c&lt;b taken for c&lt;b: 12 (75.0%)</title>" in svg
    assert re.findall(r'class="number[^>]*>(\d+)<', svg) == ["3", "1", "4", "12"]


def test_event_files(make_config):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX")
    from tensorboardX.proto.event_pb2 import Event

    history = Trainer(make_config(tensorboard=True)).fit()
    (path,) = (history.folder / "tensorboard").iterdir()
    content, values = path.read_bytes(), {}
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        for value in event.summary.value:
            values.setdefault(value.tag, []).append((event.step, value.simple_value))
    expected = [(record.epoch, record.validation_loss) for record in history.epochs]
    np.testing.assert_allclose(values["loss/validation"], expected, rtol=1e-6)
    np.testing.assert_allclose(values["accuracy/test"], [(3, history.test.accuracy)], rtol=1e-6)


def test_event_files_of_a_run_with_the_test_alone_left(make_config):
    pytest.importorskip("tensorboardX", reason="needs tensorboardX")

    class StopInTest(Observer):
        def run_started(self, trainer, history):
            self._trainer = trainer

        def evaluation_started(self, split):
            if split == "test":
                self._trainer.stop()

    stopped = Trainer(make_config(tensorboard=True), StopInTest()).fit()
    assert (len(stopped.epochs), stopped.test) == (3, None)
    assert Trainer(make_config(), resume=stopped.folder).fit().test is not None


def test_observer_that_fails_after_the_test_leaves_a_finished_run(make_config):
    class Fail(Observer):
        def test_done(self, metrics):
            raise RuntimeError

    trainer = Trainer(make_config(epochs=1), Fail())
    with pytest.raises(RuntimeError):
        trainer.fit()
    assert read_header(trainer.history.folder / "checkpoints/last.safetensors").values["finished"]


def test_without_tensorboardx_the_extra_is_named(make_config, monkeypatch):
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^tensorboard: expected tensorboardX.*pip install 'cnnzoo\[tensorboard\]'$"):
        Trainer(make_config(tensorboard=True))


def test_observers_are_all_told_everything():
    told = []

    class Listener(Observer):
        def __init__(self, name):
            self.name = name

        def epoch_started(self, epoch):
            told.append((self.name, epoch))

    methods = [name for name in vars(Observer) if not name.startswith("_")]
    assert {name for name in vars(Observers) if not name.startswith("_")} == set(methods)
    Observers(Listener("a"), Listener("b")).epoch_started(7)
    assert told == [("a", 7), ("b", 7)]
