"""Pairs of similar hashes: the same as those of comparing all pairs."""

import numpy as np
import pytest

from hpc_yolo.data.check import near
from hpc_yolo.data.check.near import MAX_DISTANCE, distances, near_pairs

RANDOM = np.random.default_rng(0)


def changed(codes, num_bits):
    """Return `codes`, each with `num_bits` of its bits changed."""
    masks = [sum(1 << int(bit) for bit in RANDOM.choice(64, num_bits, replace=False)) for _ in codes]
    return codes ^ np.array(masks, dtype=np.uint64)


def every_pair(codes):
    first, second = np.triu_indices(len(codes), 1)
    is_near = distances(codes[first], codes[second]) <= MAX_DISTANCE
    return set(zip(first[is_near].tolist(), second[is_near].tolist(), strict=True))


def found(codes):
    return {tuple(pair) for pairs, _ in near_pairs(codes) for pair in pairs.tolist()}


@pytest.mark.parametrize("chunk", [50, 1 << 21])
def test_pairs_are_those_of_comparing_all(monkeypatch, chunk):
    monkeypatch.setattr(near, "CHUNK_PAIRS", chunk)
    bases = RANDOM.integers(0, 2**64, 60, dtype=np.uint64)
    codes = np.concatenate([bases, *(changed(bases, number) for number in range(12))])
    expected = every_pair(codes)
    assert found(codes) == expected
    assert {(0, 60), (0, 60 * (MAX_DISTANCE + 1))} <= expected
    for pairs, apart in near_pairs(codes):
        assert apart.tolist() == distances(codes[pairs[:, 0]], codes[pairs[:, 1]]).tolist()


def test_equal_hashes_are_expanded_in_parts_of_bounded_size(monkeypatch):
    monkeypatch.setattr(near, "CHUNK_PAIRS", 100)
    codes = np.full(40, 7, dtype=np.uint64)
    assert found(codes) == every_pair(codes)
    assert max(len(pairs) for pairs, _ in near_pairs(codes)) <= 100


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_hashes_have_no_pair(number):
    assert found(np.zeros(number, dtype=np.uint64)) == set()


def test_distance_counts_the_bits_that_differ():
    codes = np.array([0, 1, 2**64 - 1, 2**63], dtype=np.uint64)
    assert distances(codes, codes[::-1].copy()).tolist() == [1, 63, 63, 1]
