"""What the ranks of a run have to agree on before they train together."""

from dataclasses import replace

from cnnzoo.config import RunConfig
from cnnzoo.data import Dataset
from cnnzoo.errors import DistributedError
from cnnzoo.graph.network import Network
from cnnzoo.graph.replicas import synchronize_batch_norm
from cnnzoo.interop.model_file import locate_weights
from cnnzoo.interop.weights import load_weights
from cnnzoo.training.engine import Engine
from cnnzoo.training.resume import Claim, claim_run


def claim_for_all(engine: Engine, config: RunConfig, where: str | None) -> tuple[Claim | None, list[str]]:
    """Have rank 0 lock the run to go on with, and read its checkpoint; arguments, result and errors as `claim_run`.

    The checkpoint need not be found on other hosts. The lock is rank 0's. Where `where` is None, no run goes on.
    """
    if where is None:
        return None, []
    locks = []

    def claim_unlocked() -> tuple[Claim | None, list[str]]:
        claim, passed_over = claim_run(config, where)
        if claim is None:
            return None, passed_over
        locks.append(claim.lock)
        return replace(claim, lock=None), passed_over

    claim, passed_over = engine.from_root(claim_unlocked)
    if claim is not None and locks:
        claim = replace(claim, lock=locks[0])
    return claim, passed_over


def count_ranks(config: RunConfig, engine: Engine) -> RunConfig:
    """Return a new run's settings with the number of ranks, where there are several and none is said."""
    return config.replace(ranks=config.ranks or engine.size) if engine.size > 1 else config


def find_fingerprint(engine: Engine, dataset: Dataset) -> str:
    """Return the data's fingerprint; refuse data that differ between ranks.

    Raises
    ------
    DistributedError
        A rank has other images or labels than rank 0; each such rank raises it.
    """
    fingerprint = dataset.fingerprint()
    for rank, found in enumerate(engine.collect(fingerprint)):
        if found != fingerprint:
            raise DistributedError(
                f"{dataset.name}: expected the same images and labels on all ranks, found others on rank {rank}: "
                f"here they are {dataset.source}"
            )
    return fingerprint


def load_on_root(engine: Engine, net: Network, path: str) -> None:
    """Let rank 0's network have the weights at a path, which other hosts need not have; raises as `load_weights`."""
    engine.from_root(lambda: net.load_state_dict(load_weights(locate_weights(path))))


def unite_replicas(engine: Engine, net: Network, sync_batchnorm: bool) -> None:
    """Give every rank's network rank 0's weights, dropout of its own, and batch norms that are synchronized or not."""
    if engine.size == 1:
        return
    net.replica = engine.rank
    for array in (net.parameter_arena, *net.buffers.values()):
        engine.copy_from_root(array)
    if sync_batchnorm:
        synchronize_batch_norm(net.graph, engine.add_up)
