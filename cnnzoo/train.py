"""Train a network: ``python -m cnnzoo.train --model NAME``."""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cnnzoo.command import Parser, add_setting, exit_code, flag, run_command, told_once
from cnnzoo.config import RunConfig, list_settings, load_config
from cnnzoo.errors import ConfigError, FinishedError
from cnnzoo.interrupts import Interrupt, StopSignals
from cnnzoo.recipes import DATASET_RECIPES, MODEL_RECIPES
from cnnzoo.threads import get_num_threads, set_num_threads

if TYPE_CHECKING:
    from cnnzoo.graph.ledger import Ledger
    from cnnzoo.training.engine import Engine
    from cnnzoo.training.history import History
    from cnnzoo.training.trainer import Trainer

_DESCRIPTION = """Train a network and leave its weights, its settings and a row for each epoch in a folder of its own.

example:
  cnnzoo train --model resnet18 --data-dir data --epochs 30 --lr 0.05 --schedule cosine

What no flag says comes from the config file, and then from the recipe of the model and the data set.

SIGINT (Ctrl-C), SIGTERM and SIGUSR1 let the step end, save, and exit with 130, 143 and 138; --resume auto goes on, to
the same bits. A run that goes on has its own settings; epochs, data_dir, threads and the checkpoint_ settings may be
said anew. With other epochs the rest of the run follows the schedule for their number."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str or None
        None: the process's.
    """
    return run_command("cnnzoo train", lambda: train(arguments))


def train(arguments: Sequence[str] | None) -> None:
    """Train as the arguments say; see `main`."""
    parsed = _make_parser().parse(arguments)
    said = {name: value for name, value in vars(parsed).items() if name in list_settings()}
    with StopSignals() as signals:
        base = None if parsed.config is None else load_config(parsed.config)
        from cnnzoo.training.engine import make_engine

        # Before the settings are complete: what they come from may be on rank 0's host alone.
        engine = make_engine(said.get("distributed", "none" if base is None else base.distributed))
        signals.repeated = engine.size > 1
        with told_once("cnnzoo train", engine):
            config = _make_config(said, base, parsed.resume, engine)
            threads = config.threads or engine.threads
            if threads is not None:
                # Before numba is imported, with the trainer, so that they may be more than the cores.
                set_num_threads(threads)
            interrupt = _train_rank(parsed, config, engine, signals)
    if interrupt is not None:
        raise interrupt if engine.is_root else SystemExit(exit_code(interrupt))


def _train_rank(
    parsed: argparse.Namespace, config: RunConfig, engine: "Engine", signals: StopSignals
) -> Interrupt | None:
    """Train as one of the ranks, or as the only process; rank 0 prints. Return what made all of them stop early."""
    from cnnzoo.graph.ledger import Ledger
    from cnnzoo.kernels.compile import before_compiling
    from cnnzoo.training.progress import Progress
    from cnnzoo.training.trainer import Trainer

    output = sys.stderr if parsed.json else sys.stdout
    with contextlib.closing(Progress(output)) as progress:
        try:
            trainer = Trainer(config, progress if engine.is_root else None, parsed.resume, engine)
        except FinishedError as error:
            if engine.is_root:
                print(json.dumps({"folder": error.folder, "finished": True}) if parsed.json else error)
            return None

        def compile_missing() -> None:
            signals.raise_at_once()  # there is no step to finish
            progress.compile_missing(trainer.config)
            signals.stop = trainer.stop

        signals.stop = trainer.stop
        with before_compiling(compile_missing) if engine.is_root else contextlib.nullcontext():
            trainer.plan()
            received = engine.largest(signals.received or 0)
            if received:
                return Interrupt("interrupted before the first step", received)
            ledger = trainer.net.ledger = Ledger() if parsed.profile else None
            history = trainer.fit()
        signals.stop = None
    received = engine.largest(signals.received or 0)
    if history.test is None and received:
        return Interrupt(_describe_interrupt(trainer, history), received)
    if engine.is_root:
        _print_result(parsed, _make_result(trainer, history), ledger)
    return None


def _print_result(parsed: argparse.Namespace, result: dict[str, Any], ledger: "Ledger | None") -> None:
    from cnnzoo.profiling import describe_ledger, ledger_to_plain
    from cnnzoo.training.progress import wrap

    if parsed.json:
        result |= {"profile": ledger_to_plain(ledger)} if ledger else {}
        print(json.dumps(result))
    else:
        print(wrap(_describe_in_words(result), sys.stdout))
        if ledger:
            print("", *describe_ledger(ledger), sep="\n")


def _make_parser() -> Parser:
    """Return the parser: arguments of the command's own and a flag for each field of `RunConfig`."""
    usage = "%(prog)s --model NAME [--config FILE] [--resume PATH|auto] [--profile] [--json] [--SETTING VALUE ...]"
    parser = Parser(prog="cnnzoo train", usage=usage, description=_DESCRIPTION, epilog=_describe_recipes())
    parser.add_argument("--config", metavar="FILE", help="Python file that ends in a RunConfig called config")
    parser.add_argument(
        "--resume",
        metavar="PATH|auto",
        help="go on with a checkpoint or a run's folder; auto: with the newest unfinished run of the model and the "
        "data set in the output folder, or with a new one",
    )
    parser.add_argument(
        "--profile", action="store_true", help="show where a step's time goes, layer by layer; with --json, all rows"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON, and all else to standard error")
    groups: dict[str, argparse._ArgumentGroup] = {}
    for name, setting in list_settings().items():
        if setting.group not in groups:
            groups[setting.group] = parser.add_argument_group(setting.group)
        add_setting(groups[setting.group], name)
    return parser


def _describe_recipes() -> str:
    """Return a row for each model and data set whose settings are not the defaults, as flags."""
    lines = ["recipes that differ from the defaults:"]
    for kind, recipes in (("model", MODEL_RECIPES), ("dataset", DATASET_RECIPES)):
        for name, recipe in recipes.items():
            flags = [flag(f"no_{key}") if value is False else f"{flag(key)} {value}" for key, value in recipe.items()]
            lines.append(f"  --{kind} {name}: {' '.join(flags)}")
    return "\n".join(lines)


def _make_config(said: dict[str, Any], base: RunConfig | None, resume: str | None, engine: "Engine") -> RunConfig:
    """Return the run's settings: the recipe's, over them the config file's, `base`, over them the flags', `said`."""
    if base is not None:
        return base.replace(**said)
    if "model" not in said and resume not in (None, "auto"):
        from cnnzoo.training.checkpoint import locate_checkpoint, read_header

        said = said | {"model": engine.from_root(lambda: read_header(locate_checkpoint(resume)).config["model"])}
    if "model" not in said:
        raise ConfigError("expected --model NAME, --config FILE or --resume PATH, got none")
    return RunConfig.from_dict(said)


def _describe_interrupt(trainer: "Trainer", history: "History") -> str:
    position, epochs = trainer.state.position, trainer.config.epochs
    place = f"epoch {position.epoch + 1} of {epochs}" if position.epoch < epochs else "the test"
    return f"stopped in {place}; --resume {history.folder} goes on"


def _make_result(trainer: "Trainer", history: "History") -> dict[str, Any]:
    """Return what the command prints, as plain values for JSON."""
    last, best, test = history.epochs[-1], history.best, history.test
    assert test is not None
    return {
        "model": trainer.config.model,
        "parameters": trainer.net.num_parameters,
        "dataset": trainer.dataset.name,
        "source": trainer.dataset.source,
        "note": trainer.dataset.note,
        "train_images": len(trainer.train_batches.indices),
        "validation_images": 0 if trainer.validation_batches is None else len(trainer.validation_batches.indices),
        "test_images": test.images,
        "epochs": last.epoch,
        "train_loss": last.train_loss,
        "train_accuracy": last.train_accuracy,
        "best_epoch": best.epoch,
        "validation_loss": best.validation_loss,
        "validation_accuracy": best.validation_accuracy,
        "test_loss": test.loss,
        "test_accuracy": test.accuracy,
        "test_accuracy_interval": test.accuracy_interval,
        "test_top5_accuracy": test.top5_accuracy,
        "seconds": sum(record.seconds + record.validation_seconds for record in history.epochs),
        "images_per_second": last.images_per_second,
        "threads": get_num_threads(),
        "ranks": trainer.engine.size,
        "seed": trainer.config.seed,
        "folder": str(history.folder),
    }


def _describe_in_words(result: dict[str, Any]) -> str:
    epochs = f"{result['epochs']} epoch{'' if result['epochs'] == 1 else 's'}"
    if result["epochs"] > 1 and result["validation_images"]:
        epochs += f" (epoch {result['best_epoch']}, the best on validation)"
    low, high = result["test_accuracy_interval"]
    lines = [
        f"{result['model']} on {result['dataset']} after {epochs}: "
        f"test accuracy {result['test_accuracy']:.2%} (95% interval {low:.2%} to {high:.2%}), "
        f"top-5 {result['test_top5_accuracy']:.2%}, loss {result['test_loss']:.4f}, {result['test_images']:,} images",
        f"data: {result['source']}",
        result["note"],
        f"weights: {result['folder']}/final.safetensors",
    ]
    return "\n".join(line for line in lines if line)


if __name__ == "__main__":
    sys.exit(main())
