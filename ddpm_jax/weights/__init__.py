"""Other projects' weights, in and out: a file a format, which only knows names and settings.

tensors.py      named arrays of a .safetensors file or PyTorch's; nothing in a file is run
fields.py       another project's JSON of settings, with no field passed over
places.py       a map of names, applied in either direction
contract.py     what a format is
formats.py      the tables of formats: what is read, what is written
"""
