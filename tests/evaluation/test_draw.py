"""One draw serves all requests: by their labels, the largest request first and in its order."""

import numpy as np
import pytest

from ddpm_jax.evaluation.draw import choose_samples, plan_draw
from ddpm_jax.evaluation.metrics import Request


def request(labels):
    return Request(np.arange(3), len(labels), np.asarray(labels, np.int32))


MANY = request([2, 0, 1, 1, 0, 2, 2, 0])
FEW = request([0, 0, 1, 1, 2, 2])
RARE = request([1, 1, 1, 1])


@pytest.mark.parametrize("requests", [[MANY], [FEW], [RARE], [FEW, RARE], [MANY, FEW, RARE]])
def test_each_request_gets_the_labels_that_it_asks_for(requests):
    num, labels = plan_draw(requests)
    assert labels is not None
    assert len(labels) == num
    for each in requests:
        chosen = choose_samples(each, labels)
        assert len(set(chosen)) == each.num
        np.testing.assert_array_equal(np.sort(labels[chosen]), np.sort(each.labels))
        np.testing.assert_array_equal(chosen, np.sort(chosen))


def test_the_largest_request_comes_first_and_in_its_order():
    for requests in ([FEW, MANY, RARE], [RARE, FEW, MANY]):
        num, labels = plan_draw(requests)
        assert labels is not None
        np.testing.assert_array_equal(labels[:8], MANY.labels)
        np.testing.assert_array_equal(choose_samples(MANY, labels), np.arange(8))
        # MANY has two samples of class 1, and RARE wants four.
        assert (num, labels[8:].tolist()) == (10, [1, 1])


def test_a_request_alone_is_drawn_as_it_stands():
    for each in (MANY, FEW, RARE):
        num, labels = plan_draw([each])
        assert num == each.num
        np.testing.assert_array_equal(labels, each.labels)
        np.testing.assert_array_equal(choose_samples(each, labels), np.arange(num))


def test_of_each_label_the_first_samples_are_taken():
    num, labels = plan_draw([MANY, RARE, FEW])
    assert num == 10
    np.testing.assert_array_equal(choose_samples(RARE, labels), [2, 3, 8, 9])
    np.testing.assert_array_equal(choose_samples(FEW, labels), [0, 1, 2, 3, 4, 5])


def test_without_labels_the_largest_number_serves_all():
    requests = [Request(np.arange(3), num, None) for num in (4, 9, 2)]
    num, labels = plan_draw(requests)
    assert (num, labels) == (9, None)
    np.testing.assert_array_equal(choose_samples(requests[0], None), np.arange(4))
