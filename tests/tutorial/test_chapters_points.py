"""The chapters on points, and the one for those who come from PyTorch, run and say what is so."""


def test_from_data_to_noise(run):
    run(1)


def test_what_a_network_must_learn(run):
    run(2)


def test_training(run, is_long):
    names = run(3)
    if is_long:
        assert abs(names["ours"][-50:].mean() - 0.32) < 0.01


def test_sampling(run, is_long):
    names = run(4)
    if is_long:
        assert names["from_samples"] < 0.05 < names["from_noise"]
        assert names["in_ten"]["dpmpp"] < names["in_ten"]["ddpm"]


def test_from_pytorch(run):
    run(9)
