from skyrl_train.rollout.seeds import sampling_seed


def test_equal_arguments_give_equal_seeds():
    assert sampling_seed(1, 2, 3, 4) == sampling_seed(1, 2, 3, 4)


def test_every_argument_changes_the_seed():
    seeds = {
        sampling_seed(run, step, prompt, sample, stream=stream)
        for run in range(3)
        for step in range(5)
        for prompt in range(5)
        for sample in range(5)
        for stream in ("train", "evaluation")
    }
    assert len(seeds) == 3 * 5 * 5 * 5 * 2
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_adjacent_arguments_are_not_confused():
    assert sampling_seed(1, 11, 1, 1) != sampling_seed(11, 1, 1, 1) != sampling_seed(1, 1, 11, 1)
