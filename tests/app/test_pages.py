"""Every page over results folders of all sizes, and with wrong URLs and databases."""

import json
import shlex

import pytest
from streamlit.testing.v1 import AppTest

from harness.experiment.resolve import evaluation
from harness.registry import METHODS
from harness.store.database import Database
from harness.store.rundir import RunDirectory

PAGES = [
    "start",
    "leaderboards",
    "tradeoffs",
    "runs",
    "run",
    "compare",
    "methods",
    "losses",
    "tsne",
]
LARGE_STORE_RUN = "m0-000000000000"


def words(at: AppTest) -> str:
    """All text on the page, without Markdown escapes."""
    shown = [*at.title, *at.header, *at.subheader, *at.markdown, *at.caption, *at.info, *at.warning]
    texts = [str(element.value) for element in [*shown, *at.error, *at.code]]
    return "\n".join(texts).replace("\\", "")


@pytest.mark.parametrize("page", PAGES)
def test_a_page_without_results_says_how_to_begin(open_page, empty, page) -> None:
    at = open_page(page, empty)
    assert at.title
    assert not at.error
    assert ("python -m harness run" in words(at)) or page == "losses"
    assert not empty.exists()


@pytest.mark.parametrize("page", PAGES)
def test_a_page_with_results_opens_and_writes_nothing(
    open_page, small_store, large_store, page
) -> None:
    for results, run_id in ((small_store[0], small_store[1]["a"]), (large_store, LARGE_STORE_RUN)):
        before = Database(results).path.read_bytes()
        at = open_page(page, results, **({"run": run_id} if page == "run" else {}))
        assert Database(results).path.read_bytes() == before
        assert at.title
        assert not at.error
        assert "There are no results" not in words(at)


@pytest.mark.parametrize(
    ("page", "query", "value"),
    [
        ("leaderboards", {"table": "99"}, "99"),
        ("leaderboards", {"table": "2", "sort": "'; DROP TABLE runs; --"}, "DROP TABLE"),
        ("leaderboards", {"table": "2", "aug": "nonsense"}, "nonsense"),
        ("leaderboards", {"table": "runs", "protocol": "<script>"}, "script"),
        ("tradeoffs", {"ds": "../../etc/passwd"}, "etc/passwd"),
        ("runs", {"state": "burning"}, "burning"),
        ("runs", {"limit": "-1"}, "-1"),
        ("compare", {"a": "no-such-run"}, "no-such-run"),
        ("methods", {"m": "[x](http://evil)"}, "evil"),
        ("losses", {"C": "1e9"}, "1e9"),
        ("losses", {"C": "²"}, "²"),
        ("losses", {"C": "--5"}, "--5"),
        ("losses", {"C": "9" * 5000}, "999..."),
        ("losses", {"T": "0"}, "temperature “0”"),
        ("tsne", {"k": "many"}, "many"),
        ("tsne", {"a": "/etc/passwd"}, "passwd"),
    ],
)
def test_a_wrong_url_gets_a_warning_and_the_default(
    open_page, small_store, page, query, value
) -> None:
    at = open_page(page, small_store[0], **query)
    warnings = [box.value.replace("\\", "") for box in at.warning]
    assert any(value in text and "cannot be chosen here: showing" in text for text in warnings), (
        warnings
    )


@pytest.mark.parametrize("run", ["no-such-run", "../../../etc/passwd", "x' OR 1=1 --", "a" * 5000])
def test_an_unknown_run_is_a_titled_page_with_one_sentence(open_page, small_store, run) -> None:
    at = open_page("run", small_store[0], run=run)
    assert [title.value for title in at.title] == ["Run"]
    (error,) = at.error
    assert "There is no run “" in error.value
    assert len(error.value) < 400


def test_a_run_page_without_a_run_points_to_the_list(open_page, small_store) -> None:
    assert "names no run" in words(open_page("run", small_store[0]))


def test_the_runs_page_shows_which_are_running_failed_and_done(open_page, small_store) -> None:
    at = open_page("runs", small_store[0])
    frame = at.dataframe[0].value
    assert sorted(frame["state"]) == ["done", "done", "failed", "running"]
    assert set(frame["marks"]) == {"S, uncommitted"}
    assert "the loss is not finite" in words(at)


def test_two_selected_runs_are_said_to_differ_only_if_they_share_no_protocol(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    first, other = (
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed, eps=eps)
        for seed, eps in enumerate((0.15, 0.02))
    )
    running = store_run(tmp_path, "kl", "KL", seed=2, status="started")

    def remarked(*picked: str) -> bool:
        at = open_page("runs", tmp_path, q="nothing")
        at.session_state["picked runs"] = list(picked)
        text = words(at.text_input(key="q").set_value("").run())
        assert all(f"Open {run_id}" in links(at) for run_id in picked)
        return "so they are not ranked together" in text

    assert remarked(first, other)
    assert not remarked(first, running)
    run = RunDirectory(tmp_path, other)
    store_evaluation(run, 1, name="f" * 12, eps=0.15, keep_images=False)
    Database(tmp_path).record(run)
    assert not remarked(first, other)


def links(at: AppTest) -> list[str]:
    """The labels of the page's links."""
    return [link.proto.label.replace("\\", "") for link in at.get("page_link")]


def test_filters_in_the_url_restrict_the_runs(open_page, small_store) -> None:
    at = open_page("runs", small_store[0], state="done", q="trades")
    assert at.dataframe[0].value["title"].tolist() == ["TRADES"]
    assert "No run matches" in words(open_page("runs", small_store[0], q="%"))


def test_a_running_run_shows_epochs_that_the_database_lacks(open_page, store_run, tmp_path) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT", status="started")
    RunDirectory(tmp_path, run_id).append_epoch({"epoch": 6, "pgd_val": 0.9})
    frame = open_page("runs", tmp_path).dataframe[0].value
    # In percent, as the accuracies beside them are, in the file that the table downloads too.
    assert frame["validation"][0][-1] == pytest.approx(90)
    assert frame["progress"][0] == pytest.approx(100 * 6 / 200)


def test_the_runs_page_says_how_its_accuracies_were_measured(open_page, measured_again) -> None:
    frame = open_page("runs", measured_again[0]).dataframe[0].value
    assert frame["protocol"].tolist() == ["Linf 0.15, AutoAttack"]


def test_a_runs_page_shows_its_stages_classes_settings_and_log(open_page, small_store) -> None:
    results, ids = small_store
    at = open_page("run", results, run=ids["a"])
    for text in (
        "python -m harness run --method ikl",
        "some-flag: a doubt",
        "a logged warning",
        "clean, test images: 95.0%; under PGD, test images: 45.0%",
    ):
        assert text in words(at)
    broken = Database(results).query(
        "SELECT count(*) AS n FROM verdicts WHERE run_id = ? AND broken_by = 'apgd-ce'", [ids["a"]]
    )["n"][0]
    stages = next(frame.value for frame in at.dataframe if "broken" in frame.value)
    assert stages.set_index("stage")["broken"]["APGD-CE"] == broken
    assert stages["attacked"].iloc[0] == 40
    classes = next(frame.value for frame in at.dataframe if "under attack" in frame.value)
    assert classes["n"].sum() == 40


def test_a_chart_of_many_classes_shows_the_lowest_and_the_highest(
    open_page, small_store, monkeypatch
) -> None:
    monkeypatch.setattr("app.evaluation_tabs.MAX_CLASSES", 4)
    at = open_page("run", small_store[0], run=small_store[1]["a"])
    assert "The chart shows the 2 lowest and the 2 highest of 10 classes." in words(at)
    classes = next(frame.value for frame in at.dataframe if "under attack" in frame.value)
    assert len(classes) == 10


def test_texts_of_the_user_are_no_markdown(open_page, small_store, monkeypatch) -> None:
    loaded, _ = METHODS.load_all()
    monkeypatch.setattr(type(METHODS), "load_all", lambda _: (loaded, {"x": "it *fails*"}))
    assert open_page("methods", small_store[0]).warning[0].value == r"it \*fails\*"
    monkeypatch.setattr("app.evaluation_tabs.class_names", lambda _: ("*a*",) * 10)
    at = open_page("run", small_store[0], run=small_store[1]["a"])
    captions = [text for image in at.get("image") for text in image.captions]
    assert captions
    assert all(r"\*a\*, predicted \*a\*" in caption for caption in captions)


def test_a_single_changed_setting_differs(open_page, store_run, tmp_path) -> None:
    changes = {"params.weight": [1.0, 6.0]}
    run_id = store_run(tmp_path, "ikl", "IKL-AT", recipe_changes=changes)
    text = words(open_page("run", tmp_path, run=run_id))
    assert "settings differs from recipe digits and is marked ≠." in text


def test_samples_name_stages_as_every_page_does(open_page, small_store) -> None:
    results, ids = small_store
    at = open_page("run", results, run=ids["a"], broken_by="APGD-T")
    assert not any("cannot be chosen" in box.value for box in at.warning)
    samples = next(frame.value for frame in at.dataframe if "broken_by" in frame.value)
    assert set(samples["broken_by"]) == {"APGD-T"}
    stages = next(frame.value for frame in at.dataframe if "broken" in frame.value)
    assert "APGD-T" in set(stages["stage"])


def test_a_run_page_shows_its_own_protocol_first_and_names_the_others(
    open_page, measured_again
) -> None:
    results, run_id = measured_again
    choice = open_page("run", results, run=run_id).selectbox(key="evaluation-choice")
    assert choice.value == "e" * 12
    assert choice.options[0].startswith("Linf 0.15, AutoAttack, n = 40 (2026-01-02 03:06 UTC")
    assert choice.options[1].startswith("Linf 0.02, AutoAttack, n = 40 (2026-01-02 03:30 UTC")
    at = open_page("run", results, run=run_id, evaluation="f" * 12)
    assert at.selectbox(key="evaluation-choice").value == "f" * 12
    assert "**Linf 0.02, AutoAttack" in words(at)


def test_an_evaluation_of_some_images_says_so(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, name="part", partial=True, n=20, attacks=["apgd-ce"])
    Database(tmp_path).record(run)
    assert "partial" not in words(open_page("run", tmp_path, run=run_id))
    text = words(open_page("run", tmp_path, run=run_id, evaluation="part"))
    assert "n = 20, partial" in text


def test_the_command_for_images_that_were_not_saved_makes_this_evaluation_again(
    open_page, store_run, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    for path in tmp_path.rglob("*.adversarial.npy"):
        path.unlink()
    shown = words(open_page("run", tmp_path, run=run_id))
    (command,) = [line for line in shown.splitlines() if "--save-adversarial" in line]
    assert command.startswith(f"python -m harness evaluate {run_id} --set ")
    (results,) = tmp_path.glob("runs/*/evaluations/*/evaluation.json")
    protocol = json.loads(results.read_text())["protocol"]
    stored = json.loads((tmp_path / "runs" / run_id / "run.json").read_text())["config"]
    words_of = shlex.split(command)
    given = [words_of[place + 1] for place, word in enumerate(words_of) if word == "--set"]
    (made,) = evaluation(stored["evaluation"], {}, given).protocols()
    for name, value in made.identity_payload().items():
        assert json.loads(json.dumps(value)) == protocol[name], name


def test_a_clean_evaluation_has_no_adversarial_images_to_make(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, name="clean", keep_images=False, attacks=[])
    Database(tmp_path).record(run)
    shown = words(open_page("run", tmp_path, run=run_id, evaluation="clean"))
    assert "--save-adversarial" not in shown
    assert "were not saved" not in shown


def test_intervals_of_stages_are_not_named_for_one_kind(
    open_page, store_run, store_evaluation, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT", status="started")
    run = RunDirectory(tmp_path, run_id)
    store_evaluation(run, 1, order="random", population=360, partial=True)
    Database(tmp_path).record(run)
    at = open_page("run", tmp_path, run=run_id)
    (stages,) = [each.proto.columns for each in at.dataframe if "broken" in each.value]
    assert "Lower end of the 95% interval." in stages
    assert "Wilson" not in stages


def test_no_command_is_offered_for_images_of_a_run_without_weights(
    open_page, store_run, tmp_path
) -> None:
    run_id = store_run(tmp_path, "ikl", "IKL-AT")
    for name in ("*.adversarial.npy", "model.pt"):
        for path in tmp_path.rglob(name):
            path.unlink()
    shown = words(open_page("run", tmp_path, run=run_id))
    assert "neither are the weights" in shown
    assert "--save-adversarial" not in shown


def test_a_failed_run_shows_its_error_as_text(open_page, small_store) -> None:
    results, ids = small_store
    (error,) = open_page("run", results, run=ids["failed"]).error
    assert "the loss is not finite" in error.value
    assert "<b>" not in error.value


def test_the_loss_explorer_shows_wmse_vanish_and_return(open_page, empty) -> None:
    together = open_page("losses", empty).dataframe[0].value.set_index("loss")
    detached = open_page("losses", empty, detach="true")
    frame = detached.dataframe[0].value.set_index("loss")
    assert together["to_m"]["wMSE"] > 0
    assert frame["to_m"]["wMSE"] == frame["to_n"]["wMSE"] == 0
    assert frame["to_n"]["DKL + BA"] != pytest.approx(frame["to_n"]["DKL"])
    assert "it has no effect" in words(detached)
    assert "changes from length" in words(detached)
    assert "changes from" not in words(open_page("losses", empty, detach="true", wm="0"))
    assert together["to_n"]["KL"] == pytest.approx(together["to_n"]["DKL"], abs=1e-12)


def test_a_method_card_is_the_one_named_by_the_url_whatever_the_filter(open_page, empty) -> None:
    at = open_page("methods", empty, m="trades", family="distillation")
    assert not at.warning
    assert [box.value for box in at.header] == ["TRADES"]
    assert at.latex
    assert "python -m harness run --method trades" in words(at)
    assert "trades" not in list(at.dataframe[-1].value["name"])


def test_runs_of_a_protocol_are_ranked_by_an_attack_as_papers_name_it(
    open_page, small_store
) -> None:
    text = words(open_page("leaderboards", small_store[0], table="runs"))
    assert "Ranked by AutoAttack;" in text


def test_only_a_printed_table_is_sorted_as_printed(open_page, small_store) -> None:
    for table, order in (("runs", "as listed"), ("small", "as listed"), ("2", "as printed")):
        at = open_page("leaderboards", small_store[0], table=table)
        assert at.selectbox(key="sort").options[0] == order


def test_a_long_list_of_errors_says_how_many_are_shown(open_page, store_run, tmp_path) -> None:
    for seed in range(21):
        store_run(tmp_path, "ikl", "IKL-AT", seed=seed, status="error", error="no memory")
    text = words(open_page("runs", tmp_path))
    assert "The latest 20 are shown." in text
    assert text.count("no memory") == 20


def test_tsne_shows_the_maps_that_ship_until_others_are_computed(
    open_page, small_store, empty
) -> None:
    results, ids = small_store
    before = open_page("tsne", empty)
    assert "ship with the app" in words(before)
    assert len(before.dataframe[0].value) == 4
    at = open_page("tsne", results, a=ids["a"], b=ids["b"], n="5", k="3")
    assert at.dataframe[0].value.equals(before.dataframe[0].value)
    at = at.button[0].click().run()
    assert "ship with the app" not in words(at)
    frame = at.dataframe[0].value
    assert len(frame) == 4
    assert frame["silhouette"].between(-1, 1).all()
    assert frame["neighbours"].between(0, 100).all()


def test_tsne_leaves_out_old_runs_unless_the_url_names_them(
    open_page, store_run, tmp_path, monkeypatch
) -> None:
    runs = [store_run(tmp_path, "ikl", "IKL-AT", seed=seed) for seed in range(4)]
    monkeypatch.setattr("app.queries.MAX_COMPARABLE", 1)
    at = open_page("tsne", tmp_path, a=runs[0], b=runs[1])
    assert [at.selectbox(key=f"{side}-choice").value for side in "ab"] == runs[:2]
    assert not at.warning
    assert "older runs left out: 1." in words(at)


def test_tsne_says_which_runs_it_does_not_offer(open_page, reference) -> None:
    text = words(open_page("tsne", reference))
    count = Database(reference).query("SELECT count(DISTINCT run_id) AS n FROM evaluations")["n"][0]
    said = f"Not offered: {count} of {count} evaluated runs, without a model file in this folder"
    assert said in text
