import pytest

from ddpm_jax.errors import UserError, nearest, require_whole, shown

FLAGS = ["--train.steps", "--train.keep", "--data.path", "--sample.guidance"]
SETS = ["cars196", "cifar10", "food101", "mnist"]


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("--trian.steps", FLAGS, "--train.steps"),
        ("--train.step", FLAGS, "--train.steps"),
        ("--train.foo", FLAGS, None),  # the section alone is no likeness
        ("--data.batch", FLAGS, None),
        ("--lr", ["--learning_rate"], None),
        ("mnizt", SETS, "mnist"),
        ("cifar", SETS, "cifar10"),
        ("cats", SETS, None),
        ("foo", SETS, "food101"),
        ("fo", SETS, None),
        ("my_pictures", SETS, None),
        ("configs/digit.py", ["configs/digits.py", "configs/folder.py"], "configs/digits.py"),
        ("configs/mine.py", ["configs/digits.py", "configs/mnist.py"], None),
        ("eval", ["evaluate", "train"], "evaluate"),
        ("", SETS, None),
        ("mnist", [], None),
    ],
)
def test_a_hint_is_given_only_for_a_name_that_is_near(name, known, hint):
    assert nearest(name, known) == ("" if hint is None else f" (did you mean {hint}?)")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "n is 0; it must be at least 1"),
        (2**31, "n is 2147483648; it must be at most 2,147,483,647"),
        (2.0, "n is 2.0; it must be a whole number"),
        (True, "n is True; it must be a whole number"),
        pytest.param(
            10**5000, "n is a number too long to print; it must be at most 2,147,483,647", id="long"
        ),
    ],
)
def test_a_whole_number_out_of_range_is_refused(value, words):
    with pytest.raises(UserError) as caught:
        require_whole("n", value)
    assert str(caught.value).startswith(words)
    require_whole("n", 2**31 - 1)
    require_whole("n", 0, least=0)


def test_a_long_value_is_cut_short():
    assert len(shown("x" * 1000)) < 100
    assert shown((1, 2)) == "(1, 2)"
