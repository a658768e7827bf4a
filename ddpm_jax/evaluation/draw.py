"""The one set of samples that serves every metric of an evaluation.

Sample i of a seed depends only on i and its label. The draw begins with the labels of the largest
request, in its order. It then adds labels until each request has enough samples of each label. A
request takes the first samples of each label, as many as it wants.
"""

from collections import Counter
from collections.abc import Sequence

import numpy as np

from ddpm_jax.evaluation.metrics.metric import Request


def plan_draw(requests: Sequence[Request]) -> tuple[int, np.ndarray | None]:
    """Returns how many samples serve all requests, and their labels int32 `[num]` or None.

    Either all requests have labels or none has.
    """
    largest_first = sorted(requests, key=lambda request: -request.num)
    if largest_first[0].labels is None:
        return largest_first[0].num, None
    drawn: list[int] = []
    for request in largest_first:
        assert request.labels is not None, "a network takes labels in every request or in none"
        missing = Counter(request.labels.tolist()) - Counter(drawn)
        for label in request.labels.tolist():
            if missing[label] > 0:
                missing[label] -= 1
                drawn.append(label)
    return len(drawn), np.asarray(drawn, np.int32)


def choose_samples(request: Request, drawn_labels: np.ndarray | None) -> np.ndarray:
    """Returns the indices of the samples that a request takes, int `[num]`, in rising order."""
    if request.labels is None or drawn_labels is None:
        return np.arange(request.num)
    wanted = Counter(request.labels.tolist())
    chosen = [np.flatnonzero(drawn_labels == label)[:count] for label, count in wanted.items()]
    return np.sort(np.concatenate(chosen))
