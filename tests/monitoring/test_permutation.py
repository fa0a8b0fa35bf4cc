"""The permutation test says what it is asked, and no more often than chance allows."""

from __future__ import annotations

import numpy as np
import pytest

from aisle.monitoring.permutation import Difference, Feature, binned, differences, one_of


def flags(values: np.ndarray) -> Feature:
    return Feature("flag", np.stack([values, ~values], axis=1), np.ones(len(values), dtype=bool))


def only(feature: Feature, first: int, deals: int = 499) -> Difference:
    [found] = differences([feature], first, deals=deals, seed=0)
    return found


def test_equal_samples_are_no_distance_apart() -> None:
    found = only(flags(np.tile([True, False], 200)), 200)
    assert (found.effect, found.adjusted_p_value) == (0, 1)


def test_samples_with_nothing_in_common_are_as_far_apart_as_can_be() -> None:
    found = only(flags(np.repeat([True, False], 300)), 300)
    assert found.effect == pytest.approx(1, abs=0.01)
    assert found.p_value == 1 / 500


def test_the_effect_of_a_binary_feature_is_its_jensen_shannon_distance() -> None:
    chance = np.random.default_rng(0)
    window, reference = chance.random(40_000) < 0.5, chance.random(40_000) < 0.2
    p, q = np.array([0.5, 0.5]), np.array([0.2, 0.8])
    m = (p + q) / 2
    expected = np.sqrt((p * np.log2(p / m)).sum() / 2 + (q * np.log2(q / m)).sum() / 2)
    assert only(flags(np.concatenate([window, reference])), 40_000, 19).effect == pytest.approx(expected, abs=0.01)


def test_the_statistic_of_bins_is_pearsons() -> None:
    """So its p-value is near the one of scipy's chi-squared test of the same table."""
    from scipy.stats import chi2_contingency

    window, reference = [20, 30, 50], [40, 30, 30]
    rows = np.concatenate([np.repeat([0, 1, 2], window), np.repeat([0, 1, 2], reference)])
    feature = Feature("bins", rows[:, None] == np.arange(3), np.ones(200, dtype=bool))
    assert only(feature, 100, 9_999).p_value == pytest.approx(chi2_contingency([window, reference]).pvalue, abs=0.003)


def test_many_dependent_features_raise_no_more_false_alarms_than_promised() -> None:
    """16 features, pairs of them alike: of 200 undrifted windows at most 5 % and what a binomial adds by chance."""
    chance, alarms = np.random.default_rng(1), 0
    for seed in range(200):
        values = chance.normal(size=(260, 8))
        both = np.hstack([values, values + chance.normal(scale=0.1, size=values.shape)])
        features = [Feature(str(place), binned(one, 5), np.ones(260, dtype=bool)) for place, one in enumerate(both.T)]
        found = differences(features, 100, deals=999, seed=seed)
        alarms += min(one.adjusted_p_value for one in found) < 0.05
    assert alarms <= 19  # 99.5 % of binomials of 200 and 0.05


def test_one_of_many_features_that_moved_is_the_one_that_is_found() -> None:
    chance = np.random.default_rng(2)
    values = chance.normal(size=(700, 20))
    values[:200, 7] += 1
    features = [Feature(str(place), binned(one, 10), np.ones(700, dtype=bool)) for place, one in enumerate(values.T)]
    found = differences(features, 200, deals=499, seed=0)
    assert [place for place, one in enumerate(found) if one.adjusted_p_value < 0.05] == [7]


def test_the_same_seed_gives_the_same_numbers() -> None:
    values = np.random.default_rng(3).random(300) < 0.4
    assert only(flags(values), 120) == only(flags(values), 120)


def test_an_adjusted_p_value_is_never_smaller_than_its_own() -> None:
    values = np.random.default_rng(4).normal(size=(300, 8))
    features = [Feature(str(place), binned(one, 4), np.ones(300, dtype=bool)) for place, one in enumerate(values.T)]
    assert all(one.adjusted_p_value >= one.p_value for one in differences(features, 100, deals=199, seed=0))


def test_of_a_feature_that_hardly_any_row_has_nothing_is_said() -> None:
    columns = np.zeros((400, 2), dtype=bool)
    columns[:9, 0], columns[200:, 1] = True, True
    assert only(Feature("rare", columns, columns.sum(axis=1) > 0), 200) == Difference(0, 1, 1)


def test_a_feature_without_any_column_is_no_distance_apart() -> None:
    assert only(Feature("none", np.zeros((400, 0), dtype=bool), np.ones(400, dtype=bool)), 200) == Difference(0, 1, 1)


def test_no_feature_is_no_difference() -> None:
    assert differences([], 10, deals=9, seed=0) == []


def test_bins_have_equal_mass_and_equal_values_share_one() -> None:
    assert binned(np.arange(100.0), 10).sum(axis=0).tolist() == [10] * 10
    constant = binned(np.full(50, 224.0), 10)
    assert (constant.sum(axis=0) > 0).sum() == 1


def test_one_odd_value_among_equal_ones_has_a_bin_of_its_own() -> None:
    columns = binned(np.array([224.0] * 95 + [32.0] * 5), 10)
    assert sorted(columns.sum(axis=0)[columns.any(axis=0)].tolist()) == [5, 95]


def test_what_is_not_a_number_has_no_bin() -> None:
    assert binned(np.array([1.0, np.nan, 2.0]), 2).any(axis=1).tolist() == [True, False, True]
    assert not binned(np.full(3, np.nan), 2).any()


def test_rare_names_share_a_column_and_no_name_has_none() -> None:
    names, columns = one_of(["a"] * 5 + ["b"] * 2 + ["c"] + [""], fewest=5)
    assert names == ("a", "other")
    assert columns.sum(axis=0).tolist() == [5, 3]
    assert not columns[-1].any()
