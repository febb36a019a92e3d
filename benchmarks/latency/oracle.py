"""The oracle: someone said beforehand which tokens to keep, and they lie in front.

A stage keeps the first K_s tokens by a Slice with constant bounds; selectors, TopK, gathers and
approximators are gone. Frozen tokens come back only where a later stage keeps more than this one, since a
slice of the front reads none of them otherwise. Everything else is our own binding with all its passes, so
the latency over the oracle's is what choosing and bringing back cost: the selection tax.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace as changed

import onnx
import onnx_graphsurgeon as gs

from tofe_export.graph.bind import Binding, finish, passes_for
from tofe_export.graph.emit import FREEZE, RESTORE, THAW, Emitter, detach, replace, shaped, template_nodes
from tofe_export.graph.passes.base import Pass, PassResult, run
from tofe_export.graph.passes.lower_concat import LowerConcatPass
from tofe_export.graph.static_form import check_static
from tofe_export.graph.trace import Template


class LowerOraclePass(Pass):
    """Lower Freeze and Thaw to slices of the front. `keep` holds K_1 .. K_S."""

    def __init__(self, keep: Sequence[int]) -> None:
        self.keep = tuple(keep)
        self._frozen: dict[int, gs.Tensor] = {}

    def __call__(self, graph: gs.Graph) -> PassResult:
        """Replace every Freeze, Thaw and Restore."""
        self._frozen = {}
        nodes = template_nodes(graph, FREEZE, THAW, RESTORE)
        lower = {FREEZE: self._freeze, THAW: self._thaw, RESTORE: self._restore}
        for node in nodes:
            lower[node.op](graph, node)
        detach(nodes)
        return PassResult(graph, bool(nodes))

    def _freeze(self, graph: gs.Graph, node: gs.Node) -> None:
        x, kept = node.inputs[0], node.outputs[0]
        stage, prefix = node.attrs["stage"], node.attrs["prefix"]
        emit, end = Emitter(graph, f"stage{stage + 1}.freeze"), prefix + self.keep[stage]
        if self._needed(stage):
            frozen = emit.slice(x, end, x.shape[1])
            frozen.shape = [x.shape[0], x.shape[1] - end, x.shape[2]]
            self._frozen[stage] = frozen
        replace(graph, kept, shaped(emit.slice(x, 0, end), kept) if end < x.shape[1] else x)

    def _thaw(self, graph: gs.Graph, node: gs.Node) -> None:
        kept, thawed, stage = node.inputs[0], node.outputs[0], node.attrs["stage"]
        if not self._needed(stage):
            replace(graph, thawed, kept)
            return
        frozen = self._frozen[stage]
        joined = Emitter(graph, f"stage{stage + 1}.thaw")("Concat", kept, frozen, axis=1)
        joined.shape = [kept.shape[0], kept.shape[1] + frozen.shape[1], kept.shape[2]]
        replace(graph, thawed, joined)

    def _restore(self, graph: gs.Graph, node: gs.Node) -> None:
        replace(graph, node.outputs[0], node.inputs[0])

    def _needed(self, stage: int) -> bool:
        """Whether a later stage keeps more tokens than this one."""
        return any(later > self.keep[stage] for later in self.keep[stage + 1 :])


def bind_oracle(
    template: Template,
    binding: Binding,
    metadata: Mapping[str, str],
    passes: Callable[[Template, Binding], list[Pass]] = passes_for,
) -> onnx.ModelProto:
    """`graph.bind.bind` with the oracle in place of the lowering, whichever `binding` names."""
    listed = passes(template, changed(binding, lowering="concat", probe=False))
    oracle = LowerOraclePass(binding.keep)
    literal = [oracle if isinstance(item, LowerConcatPass) else item for item in listed]
    if oracle not in literal:
        raise ValueError("expected the lowering among the passes of `concat`")
    copy = onnx.ModelProto()
    copy.CopyFrom(template.model)
    model = gs.export_onnx(run(literal, gs.import_onnx(copy)), do_type_check=False)
    model = finish(model, metadata)
    check_static(model, adaptive=False, dynamic_batch=binding.batch is None)
    return model
