"""Other projects' weights, in and out: a file a format, which only knows names and settings.

tensors.py      named arrays of a .safetensors file or PyTorch's; nothing in a file is run
places.py       a map of names, applied in either direction
formats.py      the table of formats
unet.py         what the formats share that hold Ho et al.'s U-Net
"""
