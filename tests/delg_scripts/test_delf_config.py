"""The text form of DelfConfig, its defaults and its complaints."""

from dataclasses import asdict
from pathlib import Path

import pytest

from delg_training.delf_config import DelfConfig, load_delf_config, parse_delf_config
from delg_training.text_format import TextFormatError, parse_text_format
from tests.golden_recipe import load_manifest
from tests.source_tree import ROOT

SYSTEM = "delg"
CONFIGS = sorted((ROOT / "delg_scripts").glob("*.pbtxt"))
SCALES = (0.25, 0.35355338, 0.5, 0.70710677, 1.0, 1.4142135, 2.0)
WHOLE = "model_path: 'm' image_scales: 1.0 delf_local_config { use_pca: false } "


def plain(value: object) -> object:
    """Tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def test_configuration_equals_the_reference() -> None:
    case = load_manifest(SYSTEM, "records.json")["config"]
    assert plain(asdict(parse_delf_config(case["text"]))) == case["parsed_with_defaults"]


def test_liberties_of_the_text_form() -> None:
    config = parse_delf_config(
        "image_scales: [0.5, 1, 2.0f]  image_scales: 4;  # a comment\n"
        "delf_global_config: < image_scales_ind: [1, 0x2] use_pca: f >,\n"
        "model_path: 'a\\x2f' \"b\\057c\\n\"\n"
        "delf_local_config { score_threshold: -1.5e-3 use_pca: False }"
    )
    assert config.image_scales == (0.5, 1.0, 2.0, 4.0)
    assert config.delf_global_config.image_scales_ind == (1, 2)
    assert config.model_path == "a/b/c\n"
    assert config.delf_local_config.score_threshold == pytest.approx(-1.5e-3)
    assert [config.delf_global_config.use_pca, config.delf_local_config.use_pca] == [False, False]
    infinite = parse_delf_config("delf_local_config { score_threshold: -inf }")
    assert infinite.delf_local_config.score_threshold == float("-inf")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("model_path: 'm'\nimage_scale: 1.0", "line 2: DelfConfig has no field image_scale; did"),
        ("zzz: 1", "it has model_path, image_scales"),
        ("max_image_size: 1\nmax_image_size: 2", "line 2: max_image_size is given twice"),
        ("max_image_size: 1.5", "max_image_size is '1.5', expected a int"),
        ("max_image_size: 99999999999", "expected a int"),
        ("use_local_features: 2", r"expected a bool \(true or false\)"),
        ("use_local_features: 'true'", "expected a bool"),
        ("model_path: name", "expected a string in quotes"),
        ("image_scales: 'one'", "expected a float"),
        ("image_scales { }", "image_scales is a float, not a message"),
        ("delf_local_config: 5", "line 1: expected '{' behind delf_local_config"),
        ("delf_local_config {\n use_pca: true", "line 2: expected a field or '}', found ''"),
        ("max_image_size 5", "expected ':' or '{' behind max_image_size"),
        ("max_image_size:", "max_image_size has no value"),
        ("image_scales: [1.0 2.0]", "the list of image_scales does not end"),
        ("image_scales: [1.0", "the list of image_scales does not end"),
        ("model_path: 'no end", "cannot make sense of"),
        ("}", "expected a field, found '}'"),
        ("a {" * 50, "too many messages within each other"),
    ],
)
def test_what_is_wrong_in_a_text_is_named_with_its_line(text: str, complaint: str) -> None:
    with pytest.raises(TextFormatError, match=complaint):
        parse_delf_config(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (WHOLE + "use_local_features: false", "both off"),
        (WHOLE.replace("model_path: 'm'", ""), "model_path is missing"),
        (WHOLE + "image_scales: 0.0", "expected numbers above 0"),
        (WHOLE.replace("image_scales: 1.0", ""), "expected numbers above 0"),
        (WHOLE.replace("use_pca: false", "use_pca: false max_feature_num: 0"), "max_feature_num"),
        (WHOLE.replace("use_pca: false", ""), "delf_local_config has use_pca"),
        (
            WHOLE + "use_global_features: true delf_global_config { use_pca: false "
            "image_scales_ind: 1 }",
            r"image_scales_ind is \[1\], but there are 1 image_scales",
        ),
        (WHOLE + "max_image_size: 0", "max_image_size is 0"),
    ],
)
def test_configurations_that_cannot_work_are_refused_with_their_file(
    text: str, complaint: str, tmp_path: Path
) -> None:
    file = tmp_path / "wrong.pbtxt"
    file.write_text(text)
    with pytest.raises(ValueError, match=complaint) as error:
        load_delf_config(file)
    assert str(file) in str(error.value)


def test_global_indices_are_ascending_and_none_means_all() -> None:
    text = WHOLE + "image_scales: 2 image_scales: 3 use_global_features: true delf_global_config { "
    assert parse_delf_config(text + "image_scales_ind: [2, 0, 2] }").global_indices() == (0, 2)
    assert parse_delf_config(text + "}").global_indices() == (0, 1, 2)
    assert parse_delf_config(WHOLE).global_indices() == ()


def test_paths_are_those_of_the_working_folder_then_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "configs"
    (folder / "parameters/net").mkdir(parents=True)
    file = folder / "c.pbtxt"
    file.write_text(WHOLE.replace("'m'", "'parameters/net'"))
    assert load_delf_config(file).model_path == str(folder / "parameters/net")
    (tmp_path / "parameters/net").mkdir(parents=True)
    assert load_delf_config(file).model_path == "parameters/net"
    file.write_text(WHOLE)
    assert load_delf_config(file).model_path == "m", "what is nowhere keeps its name"


# score threshold and model of the released networks
RELEASED = {
    "r50delg_gld_config": (175.0, "r50delg_gld_20200814"),
    "r101delg_gld_config": (166.1, "r101delg_gld_20200814"),
    "r50delg_gldv2clean_config": (454.6, "r50delg_gldv2clean_20200914"),
    "r101delg_gldv2clean_config": (357.48, "r101delg_gldv2clean_20200914"),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_configurations_hold_the_published_values(name: str) -> None:
    threshold, model = RELEASED[name]
    config = load_delf_config(ROOT / f"delg_scripts/{name}.pbtxt")
    assert config.image_scales == pytest.approx(SCALES, rel=1e-7)
    assert (config.use_local_features, config.use_global_features) == (True, True)
    assert config.global_indices() == (3, 4, 5)
    assert config.max_image_size == 1024
    assert Path(config.model_path).name == model
    assert not config.is_tf2_exported
    local = config.delf_local_config
    assert (local.max_feature_num, local.use_pca) == (1000, False)
    assert local.score_threshold == pytest.approx(threshold, rel=1e-7)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_of_the_repository_can_be_used(path: Path) -> None:
    assert isinstance(load_delf_config(path), DelfConfig)


def test_fields_keep_their_order_and_lines() -> None:
    fields = parse_text_format("a: 1\n\nb { c: 'x' }\na: 2")
    assert [(field.name, field.line) for field in fields] == [("a", 1), ("b", 3), ("a", 4)]
