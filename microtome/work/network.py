"""The network of this process' thread, loaded once."""

import threading

from microtome.errors import ModelReplaced
from microtome.model import find_model, read_card
from microtome.network import Network, load_model
from microtome.stages.run import Run

_networks = threading.local()


def network_of(run: Run) -> Network:
    """The compiled network of this thread; another model or precision replaces it."""
    model = run.plan.model
    wanted = (model.digest, model.precision, model.engine, model.low, model.high)
    if getattr(_networks, "wanted", None) != wanted:
        folder = find_model(model.uri)
        if read_card(folder).digest(model.precision) != model.digest:
            raise ModelReplaced(model.uri)
        _networks.network = load_model(
            folder,
            precision=model.precision,
            threads=1,
            limits=(model.low, model.high),
            engine=model.engine,
        )
        _networks.wanted = wanted
    network: Network = _networks.network
    return network


def drop_network() -> None:
    """Free the network of this thread, half of a worker's memory: for stages that come after `infer`.

    `network_of` loads it again, should another slide's shard come.
    """
    vars(_networks).clear()
