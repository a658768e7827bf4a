"""Reports about a config, a run or a data set, in numbers and pictures."""
