"""An ONNX graph that is looked through and rewritten: who makes a tensor, who reads it, what it is computed from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

_CONTRIB = "com.microsoft"


class NotConvertible(Exception):
    """The graph is not one that can be given slots; the text says what stands in the way."""


def check_names(graph: onnx.GraphProto) -> None:
    """NotConvertible when a name is no text: protobuf then gives its bytes, which nothing here is made for."""
    names: list[object] = [one.name for one in (*graph.input, *graph.output)]
    names += [weight.name for weight in graph.initializer]
    for node in graph.node:
        names += [node.name, node.op_type, node.domain, *node.input, *node.output]
    if not all(isinstance(name, str) for name in names):
        raise NotConvertible("a name in it is not valid UTF-8; the file is damaged")


class Document:
    """The main graph of a model. Rewriting changes `nodes`; `index` is called before asking again."""

    def __init__(self, model: onnx.ModelProto, folder: Path) -> None:
        """`folder` is where external weights lie."""
        check_names(model.graph)
        self.model = model
        self.folder = folder
        self.nodes: list[onnx.NodeProto] = list(model.graph.node)
        self.weights: dict[str, TensorProto] = {w.name: w for w in model.graph.initializer}
        self.inputs: dict[str, onnx.ValueInfoProto] = {
            i.name: i for i in model.graph.input if i.name not in self.weights
        }
        self.outputs: dict[str, onnx.ValueInfoProto] = {o.name: o for o in model.graph.output}
        self._name_count = 0
        self.index()

    def index(self) -> None:
        """Learns anew who makes and reads each tensor, after a change of nodes."""
        self.maker: dict[str, onnx.NodeProto] = {}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.output:
                if name:
                    if name in self.maker or name in self.inputs or name in self.weights:
                        raise NotConvertible(f"two makers of the tensor {name!r}")
                    self.maker[name] = node
            for name in node.input:
                if name:
                    self.readers[name].append(node)

    def fresh(self, stem: str) -> str:
        """A tensor name that the graph does not have."""
        while True:
            self._name_count += 1
            name = f"farthing.{stem}.{self._name_count}"
            if (
                name not in self.maker
                and name not in self.weights
                and name not in self.inputs
                and name not in self.outputs
            ):
                return name

    def constant(self, stem: str, values: Any, dtype: Any = np.int64) -> str:
        """Adds a constant and returns its name."""
        name = self.fresh(stem)
        self.weights[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
        return name

    def add(
        self,
        kind: str,
        inputs: Sequence[str],
        outputs: Sequence[str] = (),
        *,
        contrib: bool = False,
        **attributes: Any,
    ) -> str:
        """Appends a node, with a made-up output unless named; returns its first output."""
        names = list(outputs) or [self.fresh(kind.lower())]
        node = helper.make_node(
            kind, list(inputs), names, domain=_CONTRIB if contrib else "", **attributes
        )
        self.nodes.append(node)
        return names[0]

    def array(self, name: str) -> NDArray[Any]:
        """A weight's values. NotConvertible when it is no weight or its data is not there."""
        tensor = self.weights.get(name)
        if tensor is None:
            raise NotConvertible(f"{name!r} is not a constant")
        try:
            if tensor.data_location == TensorProto.EXTERNAL:
                kind = helper.tensor_dtype_to_np_dtype(tensor.data_type)
                data = external_data(tensor, self.folder)
                return np.frombuffer(data, kind).reshape(tuple(tensor.dims))
            values: NDArray[Any] = numpy_helper.to_array(tensor)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise NotConvertible(f"the data of {name!r} is broken: {error}") from error
        return values

    def small_array(self, name: str, limit: int = 1024) -> NDArray[Any] | None:
        """A constant's values when it is one of at most `limit` values, else None."""
        tensor = self.weights.get(name)
        if tensor is None:
            return None
        count = 1
        for dimension in tensor.dims:
            count *= dimension
        return self.array(name) if 0 <= count <= limit else None

    def rename_reads(self, old: str, new: str) -> None:
        """Makes every reader of `old` read `new` instead."""
        for node in self.readers.get(old, ()):
            for place, name in enumerate(node.input):
                if name == old:
                    node.input[place] = new

    def downstream(
        self, sources: Iterable[str], through: Callable[[onnx.NodeProto], bool]
    ) -> set[str]:
        """Every tensor that is computed from `sources` by nodes that `through` admits, sources included."""
        seen = set(sources)
        waiting = list(seen)
        while waiting:
            for node in self.readers.get(waiting.pop(), ()):
                if through(node):
                    new = [name for name in node.output if name and name not in seen]
                    seen.update(new)
                    waiting.extend(new)
        return seen

    def upstream(self, targets: Iterable[str], cuts: Iterable[str] = ()) -> set[int]:
        """Ids of the nodes that `targets` are computed by, not going beyond `cuts`."""
        stop = set(cuts)
        found: set[int] = set()
        waiting = [name for name in targets if name not in stop]
        while waiting:
            node = self.maker.get(waiting.pop())
            if node is None or id(node) in found:
                continue
            found.add(id(node))
            waiting.extend(name for name in node.input if name and name not in stop)
        return found

    def part(self, outputs: Sequence[str], cuts: Mapping[str, int]) -> onnx.ModelProto:
        """A model of its own that computes `outputs`, taking the tensors `cuts` (of these element types) as given."""
        wanted = self.upstream(outputs, cuts)
        nodes = [node for node in self.nodes if id(node) in wanted]
        read = {name for node in nodes for name in node.input if name} | set(outputs)
        inputs = [
            helper.make_tensor_value_info(name, kind, None)
            for name, kind in cuts.items()
            if name in read
        ]
        inputs += [
            info for name, info in self.inputs.items() if name in read and name not in cuts
        ]
        graph = helper.make_graph(
            nodes,
            "part",
            inputs,
            [onnx.ValueInfoProto(name=name) for name in outputs],
            [w for name, w in self.weights.items() if name in read and name not in cuts],
        )
        model = helper.make_model(graph, ir_version=self.model.ir_version)
        del model.opset_import[:]
        model.opset_import.extend(self.model.opset_import)
        return model

    def prune(self) -> None:
        """Drops what no output needs, and puts the nodes into an order of computation."""
        wanted = self.upstream(self.outputs)
        self.nodes = self._in_order([node for node in self.nodes if id(node) in wanted])
        self.index()
        read = set(self.readers) | set(self.outputs)
        self.weights = {name: w for name, w in self.weights.items() if name in read}
        self.inputs = {name: info for name, info in self.inputs.items() if name in read}

    def _in_order(self, nodes: list[onnx.NodeProto]) -> list[onnx.NodeProto]:
        made_by = {
            name: place for place, node in enumerate(nodes) for name in node.output if name
        }
        needs = [{made_by[n] for n in node.input if n in made_by} for node in nodes]
        needed_by: dict[int, list[int]] = defaultdict(list)
        for place, before in enumerate(needs):
            for other in before:
                needed_by[other].append(place)
        missing = [len(before) for before in needs]
        ready = [place for place, count in enumerate(missing) if count == 0]
        ordered: list[onnx.NodeProto] = []
        for place in ready:  # grows while it is read
            ordered.append(nodes[place])
            for later in needed_by[place]:
                missing[later] -= 1
                if missing[later] == 0:
                    ready.append(later)
        if len(ordered) != len(nodes):
            raise NotConvertible("the graph has a cycle")
        return ordered

    def to_model(self) -> onnx.ModelProto:
        """The rewritten model; weights are shared with this document, not copied where they lie outside."""
        graph = helper.make_graph(
            self.nodes,
            self.model.graph.name or "decoder",
            list(self.inputs.values()),
            list(self.outputs.values()),
            list(self.weights.values()),
        )
        model = helper.make_model(
            graph, ir_version=self.model.ir_version, producer_name="farthing"
        )
        del model.opset_import[:]
        model.opset_import.extend(self.model.opset_import)
        if all(opset.domain != _CONTRIB for opset in model.opset_import):
            model.opset_import.append(helper.make_opsetid(_CONTRIB, 1))
        return model


def external_data(tensor: TensorProto, folder: Path) -> bytes:
    """The bytes of a weight that lies in a file of the folder. Raises OSError, KeyError or ValueError.

    onnx's own reader refuses files with two names, which is how a conversion shares the original's weights.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    with (folder / entries["location"]).open("rb") as file:
        file.seek(int(entries.get("offset", "0")))
        return file.read(int(entries["length"])) if "length" in entries else file.read()


def attribute(node: onnx.NodeProto, name: str, default: Any = None) -> Any:
    """The value of a node's attribute, or `default`."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default
