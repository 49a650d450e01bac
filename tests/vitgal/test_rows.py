"""Which script's expected values a result is held against, and how rows are made."""

from pathlib import Path

import numpy as np
import pytest

from vitgal import rows
from vitgal.geometric_verification import Verification
from vitgal.rows import is_tabled, make_gain_rows, make_map_rows, script_name, to_percent

ROOT = Path(rows.EXPECTED).parent
MODELS = {variant: model for model, variant in rows.VARIANTS.items()}


@pytest.mark.parametrize("variant", ["s12", "s24"])
@pytest.mark.parametrize("name", ["roxford5k", "rparis6k", "roxford5k_1m", "rparis6k_1m"])
@pytest.mark.parametrize("stage", ["global", "rerank"])
def test_every_published_row_has_its_script(variant: str, name: str, stage: str) -> None:
    script = script_name(MODELS[variant], name, stage)
    assert (ROOT / "scripts" / f"{script}.sh").is_file()


@pytest.mark.parametrize("stage", ["global", "rerank", "untrained"])
def test_rows_of_the_generated_set_have_their_scripts(stage: str) -> None:
    script = script_name(MODELS["mini"], rows.MINI_SET, stage)
    assert (ROOT / "scripts" / f"{script}.sh").is_file()


def test_other_sets_and_models_have_no_row() -> None:
    assert script_name(MODELS["s12"], "my_photos", "global") is None
    assert script_name(MODELS["s12"], "roxford5k", "untrained") is None
    assert script_name(MODELS["mini"], "roxford5k", "global") is None
    assert script_name(None, "roxford5k", "global") is None


def test_expected_values_hold_for_the_tables_options_alone() -> None:
    s12, s24 = MODELS["s12"], MODELS["s24"]
    assert is_tabled(s12, 100, Verification(max_distance=0.82))
    assert is_tabled(s24, 100, Verification(max_distance=0.79))
    assert not is_tabled(s24, 100, Verification(max_distance=0.82))
    assert not is_tabled(s12, 200, Verification())
    assert not is_tabled(s12, 100, Verification(estimator="magsac"))
    assert not is_tabled("other", 100, Verification())


def measured(*aps: float) -> dict:
    ap = np.array(aps)
    entry = {"map": float(np.nanmean(ap)), "mp": np.array([0.5, 0.25, 0.125]), "ap": ap}
    return {"medium": entry, "hard": entry}


def test_numbers_are_percent_with_two_decimals() -> None:
    found = to_percent(measured(0.12344, np.nan), "_global")
    assert found == {
        "M_map_global": 12.34, "H_map_global": 12.34,
        "M_mp_global": [50.0, 25.0, 12.5], "H_mp_global": [50.0, 25.0, 12.5],
    }  # fmt: skip


def test_expected_values_come_from_the_table(tmp_path: Path, monkeypatch) -> None:
    table = tmp_path / "expected.csv"
    table.write_text("script,metric,value,tolerance,source\neval_x,M_map,50.0,1.0,own\n")
    monkeypatch.setattr(rows, "EXPECTED", table)
    medium, hard = make_map_rows(measured(0.4, 0.59), "eval_x", "words")
    assert (medium.expected, medium.within, hard.expected) == (50.0, True, None)
    assert medium.interval == pytest.approx((40.0, 59.0))
    assert make_map_rows(measured(0.4), None, "words")[0].expected is None


def test_gain_is_paired_over_queries() -> None:
    gain = make_gain_rows(measured(0.1, 0.9), measured(0.2, 1.0), "words")[0]
    assert gain.measured == 10.0
    assert gain.interval == pytest.approx((10.0, 10.0))
