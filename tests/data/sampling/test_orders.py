"""Orders made ahead are those that would be made when asked for, in any order of asking."""

import threading

import numpy as np
import pytest

from fastlift.data.sampling.orders import Orders
from fastlift.data.sampling.philox import _WORDS_AT_A_TIME
from fastlift.data.sampling.stream import epoch_order


@pytest.mark.parametrize("asked", [[0, 1, 2, 3], [4, 5], [0, 0, 1, 1], [2, 0, 1, 5]])
def test_each_epoch_gets_its_own(asked: list[int]) -> None:
    orders = Orders(lambda epoch: epoch_order(50, 3, epoch))
    for epoch in asked:
        np.testing.assert_array_equal(orders.of(epoch), epoch_order(50, 3, epoch))


def test_the_next_one_is_made_in_a_thread_before_it_is_asked_for() -> None:
    made: dict[int, str] = {}
    ready = threading.Event()

    def make(epoch: int) -> np.ndarray:
        made[epoch] = threading.current_thread().name
        if epoch == 1:
            ready.set()
        return np.arange(epoch)

    orders = Orders(make)
    orders.of(0)
    assert ready.wait(30)
    assert len(orders.of(1)) == 1
    assert made[0] == threading.current_thread().name
    assert made[1] == "fastlift-order"


def test_an_order_that_the_thread_could_not_make_is_made_when_asked_for() -> None:
    def make(epoch: int) -> np.ndarray:
        if threading.current_thread() is not threading.main_thread():
            raise MemoryError
        return np.arange(epoch)

    orders = Orders(make)
    orders.of(3)
    assert len(orders.of(4)) == 4


def test_words_drawn_in_parts_are_the_same_words() -> None:
    n = 2 * _WORDS_AT_A_TIME + 3
    words = np.random.Philox(key=np.array([7, 2], dtype=np.uint64)).random_raw(n)
    np.testing.assert_array_equal(epoch_order(n, 7, 2), np.argsort(words, kind="stable"))
