"""`tofe-export predict` on a bundle whose logits are the mean colours."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tofe_export.cli import main

MakeBundle = Callable[..., Path]
Picture = Callable[[str, tuple[int, int, int]], Path]


def predict(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_classes_with_scores(make_bundle: MakeBundle, picture: Picture, tmp_path: Path) -> None:
    result = predict(make_bundle(), picture("a.png", (255, 0, 0)), "--top", "2")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.split("\n") == [
        f"{tmp_path / 'a.png'}  (0.01g-scatter-fp32-b1)",
        "class  probability   logit",
        "-----  -----------  ------",
        "red         0.9999   5.000",
        "green       0.0000  -5.000",
        "",
        "",
    ]


def test_json_holds_every_picture_and_variant(make_bundle: MakeBundle, picture: Picture) -> None:
    pictures = [picture("g.png", (0, 255, 0)), picture("b.png", (0, 0, 255))]
    names = "dense-fp32-b1,0.01g-scatter-fp32-b1"
    result = predict(make_bundle(), *pictures, "--variant", names, "--json", "-", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    data = json.loads(result.stdout)
    assert data["trained"] is True
    first = [(p["image"], p["variant"], p["classes"][0]["name"]) for p in data["predictions"]]
    assert first == [
        (str(path), variant, colour)
        for path, colour in zip(pictures, ("green", "blue"), strict=True)
        for variant in ("dense-fp32-b1", "0.01g-scatter-fp32-b1")
    ]
    probabilities = [c["probability"] for c in data["predictions"][0]["classes"]]
    assert sum(probabilities) == pytest.approx(1.0)
    assert data["predictions"][0]["classes"][0]["logit"] == pytest.approx(10.0)


def test_more_pictures_than_fit_at_once(make_bundle: MakeBundle, picture: Picture) -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)] * 7
    pictures = [picture(f"{i:02}.png", colour) for i, colour in enumerate(colours)]
    result = predict(make_bundle(), *pictures, "--json", "-")
    best = [p["classes"][0]["index"] for p in json.loads(result.stdout)["predictions"]]
    assert best == [0, 1, 2] * 7


def test_the_default_bundle(
    make_bundle: MakeBundle, picture: Picture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_bundle("tofe_bundle")
    monkeypatch.chdir(tmp_path)
    result = predict(picture("a.png", (0, 0, 255)), "--top", 1)
    assert result.exit_code == 0
    assert "blue" in result.stdout


def test_classes_without_names_are_numbers(make_bundle: MakeBundle, picture: Picture) -> None:
    result = predict(make_bundle(classes=None), picture("a.png", (0, 255, 0)), "--top", 1)
    assert "class 1 " in result.stdout


def test_an_untrained_model_is_said_loudly(make_bundle: MakeBundle, picture: Picture) -> None:
    result = predict(make_bundle(trained=False), picture("a.png", (0, 255, 0)), "--quiet")
    assert result.exit_code == 0
    assert result.stderr.count("\n") == 1
    assert "NOT TRAINED" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("BUNDLE",), 2, "expected at least one picture"),
        (("BUNDLE", "missing.png"), 3, "missing.png"),
        (("BUNDLE", "."), 2, "is a folder"),
        (("BUNDLE", "a.png", "--variant", "nosuch"), 2, "0.01g-scatter-fp32-b1"),
        (("a.png",), 4, "tofe-export onnx"),
        ((), 2, "IMAGE"),
    ],
)
def test_refused(
    arguments: tuple[str, ...],
    code: int,
    message: str,
    make_bundle: MakeBundle,
    picture: Picture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = make_bundle()
    picture("a.png", (1, 2, 3))
    monkeypatch.chdir(tmp_path)
    result = predict(*(bundle if a == "BUNDLE" else a for a in arguments))
    assert (result.exit_code, result.stdout) == (code, "")
    assert message in result.stderr


def test_a_model_without_classes_is_refused(make_bundle: MakeBundle, picture: Picture) -> None:
    result = predict(make_bundle(output="features"), picture("a.png", (1, 2, 3)))
    assert result.exit_code == 2
    assert "whose output is logits; this one's is features" in result.stderr


def test_logits_that_are_not_finite_are_said_loudly(
    make_bundle: MakeBundle, picture: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from tofe_export.cli import predict as module

    nan = {"0.01g-scatter-fp32-b1": np.array([[1.0, np.nan, 0.0]], np.float32)}
    monkeypatch.setattr(module, "run", lambda *_: nan)
    result = predict(make_bundle(), picture("a.png", (1, 2, 3)), "--json", "-")
    assert "not finite" in result.stderr
    logits = [c["logit"] for c in json.loads(result.stdout)["predictions"][0]["classes"]]
    assert sorted(logits, key=str) == [0.0, 1.0, None]


def test_another_number_of_class_names_is_refused(make_bundle: MakeBundle, picture: Picture) -> None:
    result = predict(make_bundle(classes=("one", "two")), picture("a.png", (1, 2, 3)))
    assert (result.exit_code, result.stdout) == (4, "")
    assert "as many class names as logits" in result.stderr
