"""The profile of matrix products, on events that the tests make."""

from __future__ import annotations

from typing import Any

import pytest
from latency.products import Product, Shape, fixed_ms, laws, products, table


def event(
    name: str, rows: int, microseconds: int, operator: str = "Gemm", columns: int = 8
) -> dict[str, Any]:
    shapes = {"input_type_shape": [{"float": [rows, 4]}], "output_type_shape": [{"float": [rows, columns]}]}
    return {
        "cat": "Node",
        "name": f"{name}_kernel_time",
        "dur": microseconds,
        "args": {"op_name": operator, **shapes},
    }


def test_products_of_one_shape_are_put_together_and_others_left_out() -> None:
    events = [
        *(event("a", 10, time) for time in (900, 30, 31, 29)),  # the first run is no longer counted
        *(event("b", 10, time) for time in (900, 50, 50, 50)),
        *(event("c", 1, 7) for _ in range(4)),
        event("d", 10, 1000, operator="Gelu"),
        {"cat": "Session", "name": "model_run", "dur": 10**6},
    ]
    found = products(events, 3)
    assert found == [Product(Shape(1, 4, 8), 1, 7.0), Product(Shape(10, 4, 8), 2, 40.0)]
    assert found[1].gmacs_per_second == pytest.approx(10 * 4 * 8 / 40 / 1e3)
    assert found[1].to_json()["weights_gb_per_second"] == pytest.approx(4 * 8 * 4 / 40 / 1e3, abs=0.01)


def test_the_law_splits_weights_from_rows() -> None:
    shapes = [Product(Shape(rows, 4, 8), 2, 20.0 + 0.5 * rows) for rows in (1, 10, 100)]
    (law,) = laws([*shapes, Product(Shape(5, 4, 16), 1, 99.0)])  # one row count says nothing
    assert (law.depth, law.columns, law.rows) == (4, 8, (1, 10, 100))
    assert law[2:4] == pytest.approx((20.0, 0.5))
    assert fixed_ms(shapes[:1], [law]) == pytest.approx(0.04)
    text = "\n".join(table({"dense": shapes}, [law]))
    assert "4 x 8: 20 + 0.50 R microseconds (R 1, 10, 100)" in text
    assert "dense: 0.12 of 0.23 ms of its products do not depend on rows" in text
