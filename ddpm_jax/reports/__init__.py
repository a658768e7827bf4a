"""What a config, a run or a data set amounts to, in numbers and pictures."""
