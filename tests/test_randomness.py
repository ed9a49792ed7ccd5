"""Keys and orders are those of SHA-256 and PCG64, today and on any machine."""

import hashlib

import numpy as np
import pytest

from fgmae_bench.system.randomness import epoch_order, generator, key, keyed_order


def test_a_key_is_the_first_half_of_sha_256_read_from_its_low_end():
    digest = hashlib.sha256(b"3\x1forder\x1f7").digest()
    assert key(3, "order", 7) == sum(byte << (8 * i) for i, byte in enumerate(digest[:16]))
    assert key(1, 23) != key(12, 3)


def test_a_generator_is_pcg64_of_its_key():
    wanted = np.random.Generator(np.random.PCG64(key("bags", 5))).random(4)
    np.testing.assert_array_equal(generator("bags", 5).random(4), wanted)


def test_ids_are_ordered_by_the_digest_of_seed_purpose_and_id():
    ids = [f"Forest/{i}" for i in range(40)]

    def place(item):
        return hashlib.sha256(f"5\x1ffew\x1f{item}".encode()).digest()[15::-1]  # bytes from the highest

    assert keyed_order(5, "few", ids) == sorted(ids, key=place)
    assert keyed_order(6, "few", ids) != keyed_order(5, "few", ids)
    assert keyed_order(5, "many", ids) != keyed_order(5, "few", ids)


def test_epochs_are_permutations_of_their_own_that_cannot_be_written_to():
    first, second = epoch_order(0, 0, 50), epoch_order(0, 1, 50)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, epoch_order(1, 0, 50))
    with pytest.raises(ValueError, match="read-only"):
        first[0] = 1
