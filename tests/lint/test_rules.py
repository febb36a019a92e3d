"""What single rules must see and must leave alone, beyond the planted faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tofe_export.lint.findings import Finding
from tofe_export.lint.rules import RULES

BuildModel = Callable[..., ModelProto]
Lint = Callable[..., list[Finding]]
node = helper.make_node
FLOAT, HALF, INT64, UINT8 = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.INT64, TensorProto.UINT8


def places(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.severity, finding.node) for finding in findings]


def test_ids_are_unique() -> None:
    assert len({rule.id for rule in RULES}) == len(RULES)


class TestOpset:
    def test_a_newer_opset_whose_forms_are_old_is_a_warning(
        self, build_model: BuildModel, lint: Lint
    ) -> None:
        model = build_model([node("Relu", ["x"], ["y"], "relu")], opset=21)
        assert places(lint(model, "trt-10.3")) == [("warning", "")]
        assert lint(model, "trt-10.13") == []

    def test_a_new_attribute_is_an_error(self, build_model: BuildModel, lint: Lint) -> None:
        split = node("Split", ["x"], ["y", "z"], "split", num_outputs=2, axis=0)
        model = build_model([split], outputs=[("y", FLOAT, [1, 8])], opset=18)
        assert places(lint(model, "trt-8.6", "opset")) == [("error", "split")]
        assert lint(model, "trt-10.3") == []

    def test_a_new_attribute_with_its_default_is_none(self, build_model: BuildModel, lint: Lint) -> None:
        for antialias, expected in ((0, []), (1, ["opset"])):
            nodes = [node("Resize", ["x", "", "scales"], ["y"], "resize", antialias=antialias)]
            constants = {"scales": np.array([1, 1], np.float32)}
            found = lint(build_model(nodes, constants, opset=18), "trt-8.6")
            assert [f.rule for f in found if f.severity == "error"] == expected

    def test_a_new_input_that_is_read_is_none(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [node("ReduceLogSum", ["x", "axes"], ["y"], "sum")]
        constants = {"axes": np.array([1], np.int64)}
        model = build_model(nodes, constants, outputs=[("y", FLOAT, [2, 1])], opset=18)
        assert places(lint(model, "trt-8.6")) == [("warning", "")]

    def test_a_new_meaning_is_an_error(self, build_model: BuildModel, lint: Lint) -> None:
        constants = {"w": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}
        nodes = [node("GroupNormalization", ["x", "w", "b"], ["y"], "norm", num_groups=2)]
        assert lint(build_model(nodes, constants, opset=20), "trt-10.3", "opset") == []
        model = build_model(nodes, constants, opset=21)
        assert places(lint(model, "trt-10.3", "opset")) == [("error", "norm")]

    def test_an_input_that_is_not_read_is_named_once(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [node("ReduceMean", ["x", "axes"], ["y"], "mean")]
        model = build_model(
            nodes, {"axes": np.array([1], np.int64)}, outputs=[("y", FLOAT, [2, 1])], opset=18
        )
        assert [(f.rule, f.node) for f in lint(model, "trt-8.6")] == [("unread-input", "mean")]
        assert lint(model, "trt-10.3") == []


class TestConstants:
    def test_what_is_computed_from_static_shapes_is_known(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [
            node("Shape", ["x"], ["shape"]),
            node("Gather", ["shape", "zero"], ["two"]),
            node("Sub", ["two", "two"], ["axes"]),
            node("Unsqueeze", ["x", "axes"], ["y"], "unsqueeze"),
            node("Squeeze", ["y", "axes"], ["z"], "squeeze"),
        ]
        model = build_model(nodes, {"zero": np.array([0], np.int64)}, outputs=[("z", FLOAT, [2, 8])])
        assert places(lint(model, "trt-8.6", "constant-input")) == [
            ("error", "squeeze")
        ]  # an initializer only
        assert lint(model, "trt-10.13", "constant-input") == []

    def test_a_constant_node_is_an_initializer(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [
            node("Constant", [], ["axes"], value=numpy_helper.from_array(np.array([0], np.int64))),
            node("Constant", [], ["k"], value_ints=[4000]),
            node("Unsqueeze", ["x", "axes"], ["wide"]),
            node("Squeeze", ["wide", "axes"], ["back"]),
            node("TopK", ["back", "k"], ["y", "ids"], "topk"),
        ]
        model = build_model(nodes)
        assert lint(model, "trt-8.6", "constant-input") == []
        assert places(lint(model, "trt-8.6", "topk")) == [("error", "topk")]

    def test_a_body_sees_the_constants_around_it(self, build_model: BuildModel, lint: Lint) -> None:
        body = [node("Squeeze", ["wide", "axes"], ["out"], "squeeze")]
        value = helper.make_tensor_value_info("out", FLOAT, [2, 8])
        branch = helper.make_graph(body, "body", [], [value])
        nodes = [
            node("Unsqueeze", ["x", "axes"], ["wide"]),
            node("If", ["yes"], ["y"], "choose", then_branch=branch, else_branch=branch),
        ]
        model = build_model(nodes, {"axes": np.array([0], np.int64), "yes": np.array([True])})
        assert [f.rule for f in lint(model, "trt-8.6")] == ["control-flow"]

    def test_the_axis_of_topk(self, build_model: BuildModel, lint: Lint) -> None:
        for axis, expected in ((0, ["topk"]), (1, []), (-1, []), (-5, ["topk"])):
            nodes = [node("TopK", ["x", "k"], ["y", "ids"], "topk", axis=axis)]
            inputs, outputs = [("x", FLOAT, [2, 2, 2, 2, 2])], [("y", FLOAT, [2, 2, 2, 2, 2])]
            model = build_model(nodes, {"k": np.array([2], np.int64)}, inputs, outputs)
            assert [f.rule for f in lint(model, "trt-10.3")] == expected


class TestFunctions:
    @pytest.fixture
    def model(self, build_model: BuildModel) -> ModelProto:
        model = build_model([node("Odd", ["x"], ["y"], "odd", domain="local")], domains={"local": 1})
        opsets = [helper.make_opsetid("", 17)]
        body = [node("Unique", ["a"], ["b"], "inside")]
        model.functions.append(helper.make_function("local", "Odd", ["a"], ["b"], body, opsets))
        return model

    def test_their_bodies_are_checked(self, model: ModelProto, lint: Lint) -> None:
        assert places(lint(model, "trt-10.3", "operator")) == [("error", "Odd()/inside")]
        assert lint(model, "trt-10.3", "domain") == []

    def test_older_parsers_have_none(self, model: ModelProto, lint: Lint) -> None:
        assert places(lint(model, "trt-8.6", "domain")) == [("error", "odd")]


class TestTypes:
    def test_uint8_stays_at_the_border(self, build_model: BuildModel, lint: Lint) -> None:
        camera: Any = [("x", UINT8, [2, 8])]
        cast = node("Cast", ["x"], ["y"], "cast", to=FLOAT)
        assert lint(build_model([cast], inputs=camera), "trt-10.3") == []
        nodes = [node("Transpose", ["x"], ["t"], "transpose"), node("Cast", ["t"], ["y"], "cast", to=FLOAT)]
        model = build_model(nodes, inputs=camera, outputs=[("y", FLOAT, [8, 2])])
        assert {f.node for f in lint(model, "trt-10.3", "type")} == {"transpose"}

    @pytest.mark.parametrize(("to", "warned"), [(FLOAT, []), (HALF, []), (TensorProto.BFLOAT16, ["cast"])])
    def test_uint8_is_cast_to_two_types(
        self, to: int, warned: list[str], build_model: BuildModel, lint: Lint
    ) -> None:
        nodes = [node("Cast", ["x"], ["t"], "cast", to=to), node("Cast", ["t"], ["y"], "back", to=FLOAT)]
        model = build_model(nodes, inputs=[("x", UINT8, [2, 8])])
        found = lint(model, "trt-10.13", "type")
        assert [(f.severity, f.node) for f in found] == [("warning", name) for name in warned]

    def test_int64_is_int32_on_8_6(self, build_model: BuildModel, lint: Lint) -> None:
        ids: Any = [("x", INT64, [2, 8])]
        model = build_model([node("Add", ["x", "x"], ["y"])], inputs=ids, outputs=[("y", INT64, [2, 8])])
        assert lint(model, "trt-8.6", "type") == []
        assert lint(model, "trt-10.3", "type") == []

    def test_bfloat16_came_with_10(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [
            node("Cast", ["x"], ["b"], "down", to=TensorProto.BFLOAT16),
            node("Cast", ["b"], ["y"], to=FLOAT),
        ]
        model = build_model(nodes)
        assert "down" in {f.node for f in lint(model, "trt-8.6", "type")}
        assert lint(model, "trt-10.3") == []

    def test_a_node_without_a_name_is_called_after_its_output(
        self, build_model: BuildModel, lint: Lint
    ) -> None:
        model = build_model([node("Unique", ["x"], ["y"])])
        assert lint(model, "trt-8.6", "operator")[0].node == "(Unique making y)"


class TestNames:
    def test_one_unnamed_output_is_fine(self, build_model: BuildModel, lint: Lint) -> None:
        model = build_model([node("Dropout", ["x"], ["y", ""], "dropout")])
        assert lint(model, "trt-10.3", "empty-output") == []


class TestQuantization:
    def quantized(self, build_model: BuildModel, scale: Any, zero: Any, opset: int = 19) -> ModelProto:
        nodes = [
            node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "q"),
            node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "dq"),
        ]
        return build_model(nodes, {"scale": scale, "zero": zero}, opset=opset)

    def test_symmetric_int8_is_clean(self, build_model: BuildModel, lint: Lint) -> None:
        model = self.quantized(build_model, np.float32(0.1), np.int8(0), 17)
        assert [lint(model, target) for target in ("trt-8.6", "trt-10.3", "trt-11.4")] == [[], [], []]

    def test_half_scales_are_for_opset_19_and_10_x(self, build_model: BuildModel, lint: Lint) -> None:
        model = self.quantized(build_model, np.float16(0.1), np.int8(0))
        assert lint(model, "trt-10.3", "half-scale") == []
        assert [f.node for f in lint(model, "trt-8.6", "half-scale")] == ["q", "dq"]

    def test_weights_may_have_many_scales(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [
            node("QuantizeLinear", ["w", "scale", "zero"], ["q"], axis=0),
            node("DequantizeLinear", ["q", "scale", "zero"], ["d"], axis=0),
            node("MatMul", ["x", "d"], ["y"]),
        ]
        constants = {
            "w": np.ones((8, 8), np.float32),
            "scale": np.ones(8, np.float32),
            "zero": np.zeros(8, np.int8),
        }
        assert lint(build_model(nodes, constants), "trt-10.3", "per-channel-activation") == []


class TestAdvice:
    def squared(self, build_model: BuildModel, kind: int) -> ModelProto:
        nodes = [
            node("Pow", ["x", "two"], ["square"], "pow"),
            node("ReduceMean", ["square"], ["y"], axes=[1], keepdims=0),
        ]
        dtype = helper.tensor_dtype_to_np_dtype(kind)
        return build_model(nodes, {"two": np.array(2, dtype)}, [("x", kind, [2, 8])], [("y", kind, [2])])

    def test_a_decomposed_layernorm_in_half_precision(self, build_model: BuildModel, lint: Lint) -> None:
        found = lint(self.squared(build_model, HALF), "trt-10.3")
        assert [(f.severity, f.rule, f.node) for f in found] == [("advice", "half-layernorm", "pow")]
        assert lint(self.squared(build_model, FLOAT), "trt-10.3") == []

    def test_infinity_in_a_mask(self, build_model: BuildModel, lint: Lint) -> None:
        model = build_model(
            [node("Add", ["x", "mask"], ["y"], "add")], {"mask": np.array([-np.inf], np.float32)}
        )
        assert places(lint(model, "trt-10.3", "not-finite")) == [("advice", "add")]

    def test_int32_slices_are_fine(self, build_model: BuildModel, lint: Lint) -> None:
        model = build_model(
            [node("Slice", ["x", "a", "b", "a"], ["y"])],
            {"a": np.array([0], np.int32), "b": np.array([1], np.int32)},
            outputs=[("y", FLOAT, [1, 8])],
        )
        assert lint(model, "trt-10.3") == []

    def test_what_nobody_knows_is_said(self, build_model: BuildModel, lint: Lint) -> None:
        nodes = [node("Mystery", ["x"], ["z"], "m", domain="odd"), node("Relu", ["z"], ["y"])]
        found = lint(build_model(nodes, domains={"odd": 1}), "trt-10.3")
        assert [(f.rule, f.node) for f in found] == [("domain", "m"), ("unknown-shape", "m")]
