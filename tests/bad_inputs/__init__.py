"""The tables of bad inputs, for test_bad_inputs.py."""
