from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.training.metrics import au_pro, auroc, interval


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=60))
def test_auroc_is_the_share_of_pairs_in_order(pairs: list[tuple[int, bool]]) -> None:
    scores = np.array([score for score, _ in pairs], float)
    flawed = np.array([label for _, label in pairs])
    if flawed.all() or not flawed.any():
        with pytest.raises(ValueError, match="flawed and normal"):
            auroc(scores, flawed)
        return
    high, low = scores[flawed][:, None], scores[~flawed][None, :]
    assert auroc(scores, flawed) == pytest.approx(((high > low) + 0.5 * (high == low)).mean())


def masks(count: int = 3) -> list[np.ndarray]:
    found = []
    for k in range(count):
        mask = np.zeros((60, 60), bool)
        mask[10 + k : 20 + k, 10:30] = True
        found.append(mask)
    return found


def test_au_pro_of_a_perfect_map_is_one_and_of_noise_its_chance_level() -> None:
    truth = masks()
    perfect = [
        mask.astype(np.float32) + np.random.default_rng(0).random(mask.shape, np.float32) * 0.1 for mask in truth
    ]
    assert au_pro(perfect, truth) == pytest.approx(1, abs=1e-3)
    rng = np.random.default_rng(0)
    noise = [rng.random((60, 60), np.float32) for _ in truth]
    assert au_pro(noise, truth) == pytest.approx(0.15, abs=0.04)


def test_au_pro_is_the_mean_overlap_up_to_its_limit() -> None:
    """Of noise as much of a region is found as of what is normal: half the limit, whatever it is."""
    rng = np.random.default_rng(0)
    truth = masks(12)
    noise = [rng.random((60, 60), np.float32) for _ in truth]
    for limit in (0.05, 0.3):
        assert au_pro(noise, truth, limit) == pytest.approx(limit / 2, rel=0.2)


def test_au_pro_counts_small_regions_as_much_as_large_ones() -> None:
    mask = np.zeros((100, 100), bool)
    mask[5:60, 5:60] = True
    mask[90:93, 90:93] = True
    only_large = np.where(mask, 1, 0).astype(np.float32)
    only_large[90:93, 90:93] = -1
    assert au_pro([only_large], [mask]) < 0.6


def test_interval_covers_and_shrinks() -> None:
    low, high = interval(5, 100)
    assert low < 0.05 < high
    assert interval(0, 0) == (0, 1)
    wide, narrow = interval(1, 10), interval(100, 1000)
    assert wide[1] - wide[0] > narrow[1] - narrow[0]
