"""Find a network's weights in whatever a checkpoint file wraps them in.

Published files nest state dicts (``net``, ``model_state_dict``, ``state_dict_ema``, a list of one)
and prefix the names in them (``module.``, ``module.0.``, ``basic_net.``). There is no list of known
wrappers: each nested mapping of tensors, under each prefix of its names, is a candidate, and one
fits if it has all of the network's names and shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.models.normalize import Statistics

State = dict[str, Tensor]
# Names of the mean and standard deviation in the state dict of a normalising layer.
STATISTICS = (("mean", "std"), ("mu", "sigma"), ("new_mean", "new_std"), ("means", "sds"))
COUNTERS = ("num_batches_tracked", "n_averaged")
MOST_CHANNELS = 4
DEEPEST = 5


@dataclass(frozen=True)
class Weights:
    """A network's weights in a checkpoint.

    Attributes:
        key: path of the mapping that holds them, ``""`` for the checkpoint itself.
        prefix: the prefix of their names in it.
        state: the weights by the network's names.
        extra: the other tensors of the same mapping.
    """

    key: str
    prefix: str
    state: State
    extra: State

    @property
    def place(self) -> str:
        """Mapping and prefix as one dotted name."""
        return ".".join(filter(None, (self.key, self.prefix.removesuffix("."))))


@dataclass(frozen=True)
class Taken:
    """What ``load_weights`` found in addition to the weights.

    Attributes:
        statistics: mean and standard deviation per channel, if the checkpoint has them in addition
            to the network's own entries.
        notes: which weights were used and what was left out, if that is not obvious.
    """

    statistics: Statistics | None = None
    notes: tuple[str, ...] = ()


def load_weights(network: nn.Module, content: Any, source: str, key: str | None = None) -> Taken:
    """Load a network's weights from the content of a checkpoint.

    Only BatchNorm's batch counters may be missing, as in files from early PyTorch. Weights of an
    inner network also fit a network that wraps it, such as ``Normalized``.

    Args:
        network: the network that gets the weights.
        content: the checkpoint: a state dict, or nested mappings and lists that contain one.
        source: its origin, for messages.
        key: which weights to use, if there are several.

    Raises:
        UserError: no weights fit, several different ones do, or they are not plain float numbers.
    """
    mappings = dict(tensor_mappings(content))
    if not mappings:
        raise UserError(
            f"{source} holds no state dict: save one with torch.save(model.state_dict(), path)"
        )
    target, fitting = network, _fitting(network, mappings, {})
    while not fitting and (inner := _inner_network(target)) is not None:
        target, fitting = inner, _fitting(inner, mappings, network.state_dict())
    if not fitting:
        raise _another_network(network, mappings, source)
    chosen = _chosen(fitting, source, key)
    outside = _of_wrapper(chosen, {} if target is network else network.state_dict())
    _check_numbers(chosen.state, target, source)
    _check_numbers(outside, network, source)
    network.load_state_dict(outside, strict=False)
    target.load_state_dict(chosen.state, strict=False)
    rest = {name: tensor for name, tensor in chosen.extra.items() if name not in outside}
    notes = [f"the weights are those under {chosen.key!r} in {source}"] if chosen.key else []
    if unused := _unused(rest, chosen):
        notes.append(f"entries that the network does not use were left out: {abbreviated(unused)}")
    return Taken(_statistics_in(rest), tuple(notes))


def tensor_mappings(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, State]]:
    """Yield the tensors of each nested mapping that has some, with its dotted path."""
    if isinstance(content, Mapping):
        items = [(str(name), value) for name, value in content.items()]
    elif isinstance(content, list | tuple):
        items = [(str(number), value) for number, value in enumerate(content)]
    else:
        return
    tensors = {name: value for name, value in items if isinstance(value, Tensor)}
    if tensors and isinstance(content, Mapping):
        yield ".".join(path), tensors
    for name, value in items:
        if len(path) < DEEPEST:
            yield from tensor_mappings(value, (*path, name))


def nearest_weights(network: nn.Module, content: Any) -> State:
    """Return the candidate that has the most of the network's names, by these names."""
    mappings = dict(tensor_mappings(content))
    return _nearest(network, mappings).state if mappings else {}


def _nearest(network: nn.Module, mappings: Mapping[str, State]) -> Weights:
    expected = network.state_dict().keys()
    candidates = [
        _under(network, key, state, prefix)
        for key, state in mappings.items()
        for prefix in _prefixes(state)
    ]
    return max(
        candidates, key=lambda found: (len(found.state.keys() & expected), -len(found.extra))
    )


def _fitting(
    network: nn.Module, mappings: Mapping[str, State], outer: Mapping[str, Tensor]
) -> list[Weights]:
    """Return every candidate with all of the network's names and shapes and no unknown entries.

    Args:
        network: the network.
        mappings: mappings of tensors, by path.
        outer: the entries of the network that wraps it.
    """
    expected = network.state_dict()
    needed = [name for name in expected if not name.endswith(COUNTERS)]
    found = []
    for key, state in mappings.items():
        complete = [
            candidate
            for prefix in _prefixes(state)
            if sum(name.startswith(prefix) for name in state) >= len(needed) > 0
            for candidate in [_under(network, key, state, prefix)]
            if all(name in candidate.state for name in needed)
            and all(tensor.shape == expected[n].shape for n, tensor in candidate.state.items())
        ]
        # Two networks in one mapping are both candidates: neither counts as unknown to the other.
        theirs = {id(tensor) for each in complete for tensor in each.state.values()}
        for candidate in complete:
            names = _unknown(candidate, network, outer)
            if all(id(candidate.extra[name]) in theirs for name in names):
                found.append(candidate)
    return found


def _prefixes(state: State) -> list[str]:
    """Return the prefixes of the names, the empty one first."""
    found = {""}
    for name in state:
        parts = name.split(".")[:-1]
        found |= {".".join(parts[: count + 1]) + "." for count in range(min(len(parts), DEEPEST))}
    return sorted(found, key=lambda prefix: (prefix.count("."), prefix))


def _under(network: nn.Module, key: str, state: State, prefix: str) -> Weights:
    """Build the candidate under a prefix: its entries by the network's names, and all others."""
    expected = network.state_dict().keys()
    published = getattr(network, "published_names", {})
    weights, extra = {}, {}
    for name, tensor in state.items():
        own = name.removeprefix(prefix)
        for pattern, replacement in published.items():
            if own not in expected:
                own = re.sub(pattern, replacement, own)
        if name.startswith(prefix) and own in expected and own not in weights:
            weights[own] = tensor
        else:
            extra[name] = tensor
    return Weights(key, prefix, weights, extra)


def _unknown(found: Weights, network: nn.Module, outer: Mapping[str, Tensor]) -> list[str]:
    """Return the names of other entries that may affect the network's output."""
    known = {*outer, *(name for pair in _statistics(found.extra) for name in pair)}
    dead = tuple(getattr(network, "unused_names", ()))
    return [
        name
        for name in _unused(found.extra, found)
        if name not in known
        and not any(re.search(pattern, name.removeprefix(found.prefix)) for pattern in dead)
    ]


def _unused(extra: State, found: Weights) -> list[str]:
    """Return the names of other entries that are not statistics, counters or copies of weights."""
    statistics = {name for pair in _statistics(extra) for name in pair}
    return [
        name
        for name, tensor in extra.items()
        if name not in statistics
        and not name.endswith(COUNTERS)
        and not _is_copy(name, tensor, found.state)
    ]


def _is_copy(name: str, tensor: Tensor, state: State) -> bool:
    """Whether an entry duplicates one that was used, as in files of wrapped networks."""
    return any(
        _same(tensor, own)
        for known, own in state.items()
        if name == known or name.endswith(f".{known}")
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.layout == b.layout and torch.equal(a, b)


def _statistics(extra: State) -> list[tuple[str, str]]:
    """Return the names of each mean and standard deviation among the entries."""
    found = []
    for name in extra:
        parent, _, last = name.rpartition(".")
        for mean, std in STATISTICS:
            pair = name, f"{parent}.{std}" if parent else std
            if last == mean and all(
                each in extra and extra[each].numel() <= MOST_CHANNELS for each in pair
            ):
                found.append(pair)
    return found


def _statistics_in(extra: State) -> Statistics | None:
    """Return the first mean and standard deviation among the entries."""
    for pair in _statistics(extra):
        mean, std = (extra[name].flatten().tolist() for name in pair)
        return mean, std
    return None


def _of_wrapper(found: Weights, outer: Mapping[str, Tensor]) -> State:
    """Return the other entries that belong to the network that wraps the one found."""
    return {
        name: tensor
        for name, tensor in found.extra.items()
        if name in outer and outer[name].shape == tensor.shape
    }


def _inner_network(network: nn.Module) -> nn.Module | None:
    """Return the only child with parameters of a network without its own parameters, else None."""
    children = [child for child in network.children() if any(True for _ in child.parameters())]
    own = any(True for _ in network.parameters(recurse=False))
    return None if own or len(children) != 1 else children[0]


def _chosen(fitting: Sequence[Weights], source: str, key: str | None) -> Weights:
    """Choose the weights to load.

    Raises:
        UserError: several different ones fit and ``key`` is None, or it names none of them.
    """
    keys = [each.key for each in fitting]
    names = [each.key if keys.count(each.key) == 1 else each.place for each in fitting]
    listed = ", ".join(repr(name) if name else "no key" for name in names)
    if key is not None:
        fitting = [each for name, each in zip(names, fitting, strict=True) if name == key]
        if not fitting:
            raise UserError(
                f"{source} has no weights of this network under {key!r}: they are under {listed}"
            )
    first = fitting[0]
    for other in fitting[1:]:
        if not all(_same(first.state[n], other.state[n]) for n in first.state if n in other.state):
            raise UserError(
                f"{source} holds several different weights of this network, under {listed}: choose "
                "one with --weights-key (weights_key= in Python; teacher.weights_key for a teacher)"
            )
    return first


def _check_numbers(state: State, network: nn.Module, source: str) -> None:
    """Raise ``UserError`` unless all tensors are dense, of the expected kind, and without NaN."""
    expected = network.state_dict()
    for name, tensor in state.items():
        if name.endswith(COUNTERS):  # these do not affect eval mode
            continue
        fault = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_meta:
            fault = "without values (on the meta device)"
        elif tensor.layout != torch.strided:
            fault = "sparse"
        elif not tensor.is_quantized and _kind(tensor) == _kind(expected[name]):
            if not bool(tensor.isnan().any()):
                continue
            raise UserError(
                f"{name} in {source} holds NaN, as after training that diverged: give other weights"
            )
        raise UserError(f"{name} in {source} is {fault}: save dense weights in float32")


def _kind(tensor: Tensor) -> tuple[bool, bool]:
    return tensor.is_floating_point(), tensor.is_complex()


def _another_network(network: nn.Module, mappings: Mapping[str, State], source: str) -> UserError:
    """Return the error that lists the first differences from the nearest weights."""
    expected, nearest = network.state_dict(), _nearest(network, mappings)
    state = nearest.state
    missing = [n for n in expected if n not in state and not n.endswith(COUNTERS)]
    reshaped = [
        f"{name} {list(state[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    kinds = {
        "missing": missing,
        "unexpected": _unknown(nearest, network, {}),
        "differently shaped": reshaped,
    }
    differences = "; ".join(
        f"{kind} {abbreviated(names)}" for kind, names in kinds.items() if names
    )
    return UserError(
        f"the weights in {source} belong to another network ({differences}): choose the "
        "architecture that they were saved from"
    )


def abbreviated(names: Sequence[str]) -> str:
    """Return the first three names and the number of the others."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
