"""Charts as Vega-Lite specifications."""

import pandas as pd

from app import charts
from app.field_chart import field_points
from leaderboards.build import field


def encodings(spec: dict) -> list[dict]:
    """Every encoding in a chart and its layers."""
    inner = [part for key in ("layer", "spec") for part in _listed(spec.get(key))]
    return [spec.get("encoding", {}), *[each for part in inner for each in encodings(part)]]


def _listed(part) -> list[dict]:
    return part if isinstance(part, list) else [part] if part else []


def rows(spec: dict) -> list[dict]:
    return [row for data in spec["datasets"].values() for row in data]


def test_no_chart_distinguishes_series_by_colour_alone() -> None:
    frame = pd.DataFrame({"epoch": [1, 1], "series": ["a", "b"], "value": [1.0, 2.0]})
    by_class = pd.DataFrame(
        {"name": ["x", "x"], "kind": ["clean", "under attack"], "value": [90.0, 40.0]}
    )
    points = pd.DataFrame(
        {"name": ["m"], "label": ["m"], "short_label": [""], "arch": ["r"], "source": ["P"],
         "family": ["f"], "size": [80], "training_data": ["t"], "note": [""],
         "x": [1.0], "y": [2.0], "y_low": [1.5], "y_high": [2.5]}
    )  # fmt: skip
    for chart, second in (
        (charts.lines(frame, y_title="v", series=["a", "b"]), "strokeDash"),
        (charts.per_class(by_class), "shape"),
        (
            charts.tradeoff(points, {"t": points}, x_title="x", y_title="y", x_lower=False),
            "shape",
        ),
    ):
        found = encodings(chart.to_dict())
        assert any("color" in each for each in found)
        assert any(each.get(second, {}).get("field") for each in found)


def test_a_series_has_one_legend_of_colour_and_shape() -> None:
    frame = pd.DataFrame({"epoch": [1, 1], "series": ["a", "b"], "value": [1.0, 2.0]})
    by_class = pd.DataFrame({"name": ["x"] * 2, "kind": ["clean", "under attack"], "value": [9, 4]})
    (line,) = encodings(charts.lines(frame, y_title="v", series=["a", "b"]).to_dict())
    assert line["color"]["legend"]["symbolType"] == "stroke"
    # Marks without a colour of their own would be black, which no dark page shows.
    points = pd.DataFrame({"family": ["f"], "source": ["P"], "x": [1.0], "y": [2.0]})
    spec = charts.tradeoff(points, {}, x_title="x", y_title="y", x_lower=False).to_dict()
    (tooltip,) = [each["tooltip"] for each in encodings(spec) if "tooltip" in each]
    assert "family" in [each["field"] for each in tooltip]
    legends = [each["shape"]["legend"] for each in encodings(spec) if "shape" in each]
    assert [legend["symbolFillColor"] for legend in legends] == [charts.GREY]
    (point,) = encodings(charts.per_class(by_class).to_dict())
    # Legends of one field with one set of options are drawn as one.
    assert point["color"]["legend"] == point["shape"]["legend"]


def test_a_forest_is_hollow_where_the_interval_holds_zero() -> None:
    frame = pd.DataFrame(
        {"title": ["Clean", "AA"], "difference": [1.0, 2.0], "low": [-1.0, 0.5], "high": [3.0, 4.0],
         "text": ["", ""]}
    )  # fmt: skip
    spec = charts.forest(frame).to_dict()
    assert [row["clear"] for row in rows(spec) if "clear" in row] == [False, True]
    assert encodings(spec)[2]["y"]["sort"] == ["Clean", "AA"]


def test_the_waterfall_draws_every_stage_in_order() -> None:
    stages = pd.DataFrame(
        {"stage": ["Clean", "APGD-CE"], "left": [90.0, 40.0], "low": [88.0, 37.0],
         "high": [92.0, 43.0], "broken": [10, 50]}
    )  # fmt: skip
    spec = charts.waterfall(stages).to_dict()
    assert encodings(spec)[1]["x"]["sort"] == ["Clean", "APGD-CE"]
    assert [row["left"] for row in rows(spec)] == [90.0, 40.0]


def test_gradients_share_one_scale_around_zero() -> None:
    frame = pd.DataFrame({"label": ["A"], "value": [0.5]})
    spec = charts.bars_by_class(frame, title="g", limit=2.0).to_dict()
    assert [encodings(spec)[0][axis]["title"] for axis in "xy"] == ["Class", "Gradient"]
    assert encodings(spec)[0]["y"]["scale"]["domain"] == [-2.0, 2.0]


def test_a_map_marks_kind_by_shape_and_class_by_number() -> None:
    frame = pd.DataFrame(
        {"x": [0.0, 2.0], "y": [0.0, 2.0], "label": ["3", "3"], "kind": ["clean", "adversarial"]}
    )
    found = encodings(charts.embedding(frame).to_dict())
    assert found[1]["shape"]["scale"]["range"] == ["circle", "triangle-up"]
    assert found[2]["text"]["field"] == "label"


def test_the_field_names_each_kind_of_the_papers_models_once() -> None:
    points = field_points(field(2))
    labels = [label for label in points["label"] if label]
    assert len(labels) == len(set(labels))
    assert {"IKL, WRN-28-10", "IKL, WRN-34-10"} <= set(labels)
    assert points["label"].iloc[0]  # the leader
