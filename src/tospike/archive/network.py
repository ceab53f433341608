"""The graph of an SNN as plain values, and back."""

from __future__ import annotations

from collections.abc import Iterable
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx, nn

import tospike
from tospike.archive.container import FORMAT
from tospike.archive.functions import ATTRIBUTES, function_of, is_method, name_of
from tospike.archive.layers import read_layer, write_layer
from tospike.archive.values import Reader, UnknownValueError, Writer
from tospike.errors import DataError, Problem, UnsupportedOperationError
from tospike.neurons.model import NeuronModel
from tospike.run.network import SNN, Conversion

RECORDS = ("operation", "site")
FLAGS = ("analog", "before_neuron", "incremental", "holds")


def _is_path(path: str) -> bool:
    """Tell whether a path may stand in the code that torch.fx generates, where it is put between quotation marks."""
    return path.isprintable() and not set(path) & {'"', "\\"}


def describe(snn: SNN) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return what a network is as plain values, and its tensors.

    Raises:
        UnsupportedOperationError: Operations that only the user's own code can run; all of them are listed.
    """
    writer, problems = Writer(), list[Problem]()
    nodes, modules, constants = [], dict[str, Any](), dict[str, bool]()
    for node in snn.graph.graph.nodes:
        try:
            nodes.append(_write_node(node, writer))
            path = str(node.target)
            if node.op in ("call_module", "get_attr") and not _is_path(path):
                raise UnknownValueError(f"the module name {path!r}")
            if node.op == "call_module" and path not in modules:
                modules[path] = write_layer(snn.graph.get_submodule(path), path, writer)
            elif node.op == "get_attr":
                value = _attribute(snn.graph, path)
                writer.tensors[path], constants[path] = value, isinstance(value, nn.Parameter)
        except UnknownValueError as error:
            where = node.meta["operation"].where if "operation" in node.meta else node.name
            problems.append(Problem(f"A file cannot hold {error}", where=where, remedy="Write it with functions and layers of torch, and convert again; "
                                    "or keep weights alone: torch.save(snn.state_dict(), path)."))  # fmt: skip
    if problems:
        raise UnsupportedOperationError("The network cannot be saved: it calls code of its own", problems=problems)
    conversion = writer.write(snn.conversion, "conversion")
    tensors, shared = _separate(writer.tensors)
    return {
        "format": FORMAT,
        "made by": {"tospike": tospike.__version__, "torch": str(torch.__version__)},
        "class": type(snn.graph).__name__,
        "inputs": list(snn.plan.inputs),
        "conversion": conversion,
        "modules": modules,
        "constants": constants,
        "shared": shared,
        "nodes": nodes,
    }, tensors


def _attribute(graph: fx.GraphModule, path: str) -> Tensor:
    owner: Any = graph
    for name in path.split("."):
        owner = getattr(owner, name)
    if not isinstance(owner, Tensor):
        raise UnknownValueError(f"the attribute {path}, which is no tensor")
    return owner


def _write_node(node: fx.Node, writer: Writer) -> dict[str, Any]:
    target: Any = node.target
    if node.op == "call_function":
        target = name_of(target)
        if target is None:
            raise UnknownValueError(
                f"the function {getattr(node.target, '__module__', '')}.{getattr(node.target, '__name__', node.target)}"
            )
    _refuse_access(node.op, target, node.args, UnknownValueError)
    meta = {name: writer.write(node.meta[name]) for name in RECORDS if name in node.meta}
    flags = [name for name in FLAGS if node.meta.get(name)]
    arguments = {"args": writer.write(list(node.args)), "kwargs": writer.write(dict(node.kwargs))}
    return {"op": node.op, "name": node.name, "target": target, **arguments, **meta, "flags": flags}


def _refuse_access(op: str, target: str, args: tuple[Any, ...], error: type[Exception]) -> None:
    """Refuse methods and attributes that reach beyond tensors and sizes."""
    if op == "call_method" and not is_method(target):
        raise error(f"the method {target}")
    if op == "call_function" and target == "getattr" and args[1] not in ATTRIBUTES:
        raise error(f"the attribute {args[1]}")


def _separate(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors that share no memory, on the CPU, and for each that equals another by identity the name of that one."""
    kept: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    seen: dict[Any, str] = {}
    for name, value in tensors.items():
        identity = (value.data_ptr(), value.shape, value.stride(), value.dtype, value.device)
        if value.numel() and identity in seen:
            shared[name] = seen[identity]
            continue
        seen[identity] = name
        plain = value.detach().cpu().contiguous()
        whole = plain.untyped_storage().nbytes() == plain.nbytes
        kept[name] = plain if whole else plain.clone()
    return kept, shared


def rebuild(description: dict[str, Any], tensors: dict[str, Tensor]) -> SNN:
    """Return the network that `describe` described.

    Raises:
        DataError: The description names what no file may, or does not fit the tensors.
    """
    tensors = tensors | {name: tensors[other] for name, other in description["shared"].items()}
    nodes: dict[str, fx.Node] = {}
    reader = Reader(tensors, nodes)
    owned: dict[str, Any] = {path: read_layer(given, path, reader) for path, given in description["modules"].items()}
    for path, parameter in description["constants"].items():
        owned[path] = nn.Parameter(tensors[path], requires_grad=False) if parameter else tensors[path]
    _refuse_names(path for path in owned if not _is_path(path))
    _refuse_names(name for name in (*description["inputs"], description["class"]) if not name.isidentifier())
    graph = fx.Graph()
    for given in description["nodes"]:
        nodes[given["name"]] = _read_node(graph, given, owned, reader)
    conversion = reader.read(description["conversion"])
    _check_whole(nodes.values(), conversion, description["inputs"])
    network = fx.GraphModule(owned, graph, class_name=description["class"])
    graph.lint()
    return SNN(network.eval().requires_grad_(False), tuple(description["inputs"]), conversion).eval()


def _check_whole(nodes: Iterable[fx.Node], conversion: Any, inputs: list[str]) -> None:
    """Refuse a graph that does not belong to its record."""
    found = list(nodes)
    given = [str(node.target).lstrip("*") for node in found if node.op == "placeholder"]
    sites = tuple(node.meta["site"] for node in found if "site" in node.meta)
    agree = (
        isinstance(conversion, Conversion) and isinstance(conversion.neuron, NeuronModel) and conversion.sites == sites
        and [node.op for node in found].count("output") == 1 and found[-1].op == "output"
        and len(given) == len(inputs) and list(conversion.inputs) == inputs
        and all(isinstance(value, int) for value in (conversion.depth, conversion.members, conversion.seed))
        and isinstance(conversion.delay, (int, NoneType)) and isinstance(conversion.thresholds, dict)
    )  # fmt: skip
    if not agree:
        raise DataError(
            "The graph in the file does not belong to its record", got=f"{len(sites)} Sites, inputs {given}"
        )


def _refuse_names(names: Iterable[str]) -> None:
    wrong = list(names)
    if wrong:
        raise DataError("The file holds names that are none", got=repr(wrong)[:80], expected="identifiers")


def _read_node(graph: fx.Graph, given: dict[str, Any], owned: dict[str, Any], reader: Reader) -> fx.Node:
    op, target = given["op"], given["target"]
    args, kwargs = tuple(reader.read(given["args"])), reader.read(given["kwargs"])
    _refuse_access(op, target, args, DataError)
    if op in ("call_module", "get_attr") and target not in owned:
        raise DataError("The file holds a call of nothing", got=repr(target)[:80], expected="a module of the file")
    if op not in ("placeholder", "call_function", "call_method", "call_module", "get_attr", "output"):
        raise DataError("The file holds a call of an unknown kind", got=repr(op)[:80])
    names = [given["name"], *kwargs, *([target.lstrip("*")] if op == "placeholder" else [])]
    _refuse_names(name for name in names if not name.isidentifier())
    node = graph.create_node(op, function_of(target) if op == "call_function" else target, args, kwargs, given["name"])
    if node.name != given["name"]:
        raise DataError("The file holds two calls of one name", got=repr(given["name"])[:80])
    node.meta |= {name: reader.read(given[name]) for name in RECORDS if name in given}
    node.meta |= dict.fromkeys(given["flags"], True)
    return node
