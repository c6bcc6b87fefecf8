"""The batches of a run: what is trained on, what is held out, what is tested on."""

from typing import Any, NamedTuple

from cnnzoo.config import RunConfig
from cnnzoo.data import Augmentation, Batches, Dataset
from cnnzoo.data.validation import count_held_out, hold_out


class RunBatches(NamedTuple):
    """The batches of each split; `validation` is None where no images are held out."""

    train: Batches
    validation: Batches | None
    test: Batches


def make_batches(config: RunConfig, dataset: Dataset, share: tuple[int, int] = (0, 1)) -> RunBatches:
    """Return the batches of a run; the same config and data set give the same ones.

    `share` is one rank's, as of `Batches`.

    Raises
    ------
    ConfigError
        More images are to be held out than there are.
    """
    statistics: dict[str, Any] = {"mean": dataset.mean, "std": dataset.std, "share": share, "dtype": config.dtype}
    augmentation = None
    if config.augmentation:
        augmentation = Augmentation(
            crop_padding=config.crop_padding,
            flip=config.flip,
            cutout=config.cutout,
            color_jitter=config.color_jitter,
            mixup=config.mixup,
        )
    held_out = count_held_out(config.validation, len(dataset.train))
    kept, held = hold_out(dataset.train.labels, held_out, config.seed)
    train = Batches(
        dataset.train,
        config.images_per_batch,
        indices=kept,
        seed=config.seed,
        fewest=2 * (config.ranks or 1),
        augmentation=augmentation,
        num_classes=dataset.num_classes,
        **statistics,
    )
    validation = None
    if held_out:
        validation = Batches(dataset.train, config.images_per_batch, indices=held, shuffle=False, **statistics)
    test = Batches(dataset.test, config.images_per_batch, shuffle=False, **statistics)
    return RunBatches(train, validation, test)
