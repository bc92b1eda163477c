"""Half precision in an ONNX graph, as autocast has it: the layers' convolutions and matrix products, and what follows.

onnxruntime's own converter rounds whatever passes between two operations to half, boxes and counts of pixels too.
Here only nodes inside a layer change, which PyTorch's exporter names; coordinates, counts, resizing, norms, scores
and the graph's inputs and outputs stay as they were.
"""

from typing import Any

import numpy as np

PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
FOLLOWING = {"Relu", "LeakyRelu", "Add", "MaxPool", "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze"}
OUTSIDE = 3  # scopes of a node of the graph itself, or of its model's own methods: "", "model", the node's name


def halve(model: Any) -> int:
    """Change a model of onnx_ir in place; returns how many nodes compute in half precision now."""
    import onnx_ir as ir

    graph, made = model.graph, dict[Any, Any]()
    chosen = {node for node in graph if node.op_type in PRODUCTS and in_a_layer(node)}
    for node in graph:  # in their order, so what comes before is known
        floats = [value for value in node.inputs if value is not None and value.dtype == ir.DataType.FLOAT]
        follows = any(value.producer() in chosen for value in floats)
        alone = all(value.producer() in chosen or value.is_initializer() for value in floats)
        if node.op_type in FOLLOWING and in_a_layer(node) and follows and alone:
            chosen.add(node)

    def cast(value: Any, to: Any) -> Any:
        node = ir.node("Cast", [value], attributes={"to": int(to)}, name=f"{value.name}_as_{to.name.lower()}")
        node.outputs[0].name, node.outputs[0].dtype, node.outputs[0].shape = f"{node.name}_value", to, value.shape
        return node

    def halved(value: Any, node: Any) -> Any:
        if value.is_initializer():
            values = value.const_value.numpy().astype(np.float16)
            new = ir.Value(name=f"{value.name}_half", const_value=ir.tensor(values, name=f"{value.name}_half"))
            new.dtype, new.shape = ir.DataType.FLOAT16, value.shape
            graph.register_initializer(new)
            return new
        new = cast(value, ir.DataType.FLOAT16)
        graph.insert_before(node, new)
        return new.outputs[0]

    for node in [each for each in graph if each in chosen]:
        for place, value in enumerate(node.inputs):
            if value is not None and value.dtype == ir.DataType.FLOAT and value.producer() not in chosen:
                if value not in made:
                    made[value] = halved(value, node)
                node.replace_input_with(place, made[value])
        for value in node.outputs:
            if value.dtype != ir.DataType.FLOAT:
                continue
            value.dtype = ir.DataType.FLOAT16
            others = [(user, place) for user, place in value.uses() if user not in chosen]
            if not others and value not in graph.outputs:
                continue
            new = cast(value, ir.DataType.FLOAT)
            graph.insert_after(node, new)
            for user, place in others:
                user.replace_input_with(place, new.outputs[0])
            if value in graph.outputs:  # which keeps its name
                graph.outputs[graph.outputs.index(value)] = new.outputs[0]
                value.name, new.outputs[0].name = f"{value.name}_half", value.name
    for name in [name for name, value in graph.initializers.items() if not value.uses()]:
        del graph.initializers[name]
    return len(chosen)


def in_a_layer(node: Any) -> bool:
    return str(node.metadata_props.get("pkg.torch.onnx.name_scopes", "")).count(",") >= OUTSIDE
