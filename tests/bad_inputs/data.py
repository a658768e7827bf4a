"""Data that can't be read, or whose meaning is in doubt."""

import os
import struct

import numpy as np

from tests.bad_inputs.making import (
    CENTRAL,
    CONFIGS,
    ENCRYPTED,
    EPS,
    FOLDER,
    IMAGES,
    INFO,
    LOCAL,
    MINE,
    NPY,
    NPZ,
    PICTURE,
    PNG,
    POINTS_FILE,
    TRAP,
    ZIP,
    Row,
    Trap,
    array,
    arrays,
    bomb,
    cut,
    every,
    noisy_jpeg,
    nothing,
    patched,
    picture,
    put,
    zipped,
)

FOLDERS = {
    "no path": Row(
        nothing, f"train {CONFIGS}/folder.py --workdir {{here}}/new", "data.path is not set"
    ),
    "a folder that is not there": Row(nothing, FOLDER, "does not exist; give a folder of"),
    "an empty folder": Row(lambda here: (here / "set").mkdir(), FOLDER, "has no pictures"),
    "a folder of texts": Row(
        put("set/a.txt", "hello"), FOLDER, "that can be read; it holds 1 .txt"
    ),
    "only hidden pictures": Row(put("set/.a.png", PNG), FOLDER, "has no pictures"),
    "a pipe": Row(
        every(put("set/a.txt"), lambda here: os.mkfifo(here / "set" / "a.png")),
        FOLDER,
        "has no pictures",
    ),
    "a text file": Row(put("set", "hello"), FOLDER, "is a file, not a folder"),
    "a picture itself": Row(
        put("a.png", PNG), FOLDER.replace("/set", "/a.png"), "is a file, not a folder"
    ),
    "arrays as a folder": Row(array(IMAGES), FOLDER.replace("/set", "/x.npy"), "configs/arrays.py"),
    "an empty picture": Row(put("set/a.png"), FOLDER, "the first is a.png: it is empty"),
    "a web page as a picture": Row(put("set/a.jpg", "<html>404"), FOLDER, "it is not a picture"),
    "a torn picture": Row(put("set/a.jpg", noisy_jpeg()[:2000]), FOLDER, "a.jpg: image file is"),
    "a picture of a torn header": Row(put("set/a.png", PNG[:20]), FOLDER, "a.png: "),
    "a picture with a wrong byte": Row(
        put("set/a.png", PNG[:45] + b"\xff" + PNG[46:]), FOLDER, "1 of 1 pictures in"
    ),
    "a bomb of pixels": Row(put("set/a.png", bomb()), FOLDER, "a.png: it has more than 89,"),
    "a program as a picture": Row(put("set/a.png", EPS), FOLDER, "it is not a picture"),
    "a pickle as a picture": Row(put("set/a.png", TRAP), FOLDER, "it is not a picture"),
    "floating-point pixels": Row(
        put("set/a.tif", picture("TIFF", mode="F")),
        FOLDER,
        "data.range is None, but {here}/set/a.tif has floating-point levels from 200 to 200; give",
    ),
    "a CT slice": Row(
        put("set/a.tif", picture("TIFF", mode="I", level=-1000)),
        FOLDER,
        "a.tif has signed or 32-bit levels from -1000 to -1000; give the values of black and",
    ),
    "12 bits in 16": Row(
        put("set/a.png", picture(mode="I;16", level=4095)),
        FOLDER,
        "in 16 bits is 4095 of 65535; give 0 65535 to keep them dark, or 0 4095 to stretch them",
    ),
    "masks as pictures": Row(
        put("set/a.png", picture(level=1)), FOLDER, "in 8 bits is 1 of 255; give 0 255 to keep"
    ),
    "levels outside their range": Row(
        put("set/a.tif", picture("TIFF", mode="I", level=3000)),
        f"{FOLDER} --data.range -1000 1000",
        "but {here}/set/a.tif has levels from 3000 to 3000; widen it, or fix the levels",
    ),
    "one range for 8 and 16 bits": Row(
        every(
            put("set/a.png", picture(mode="I;16", level=4095)),
            put("set/b.png", picture(level=99)),
        ),
        f"{FOLDER} --data.range 0 4095",
        "have levels of 8 and 16 bits, which one range can't fit; separate them",
    ),
    "a range of nothing for pictures": Row(
        put("set/a.png", PNG), f"{FOLDER} --data.range 1 1", "data.range is (1.0, 1.0); it must be"
    ),
    "only what others left": Row(
        every(
            put("set/@eaDir/a.png", PNG), put("set/Thumbs.db"), put("set/a.heic"), put("set/a.txt")
        ),
        FOLDER,
        "it holds 1 .heic (needs pip install pillow-heif), 1 .txt, 1 in @eaDir, 1 of the system",
    ),
    "a link to nowhere": Row(
        every(put("set/a.txt"), lambda here: (here / "set" / "a.png").symlink_to("gone")),
        FOLDER,
        "a.png: No such file",
    ),
    "one broken picture, strictly": Row(
        every(put("set/a.png", PNG), put("set/b.png")),
        f"{FOLDER} --data.strict True",
        "1 of 2 pictures in {here}/set can't be read; the first is b.png: it is empty; fix",
    ),
    "classes of another number": Row(
        every(put("set/cat/a.png", PNG), put("set/dog/a.png", PNG)),
        f"{FOLDER} --model.num_classes 3",
        "the data has 2 classes; set model.num_classes to 2",
    ),
    "classes where there are none": Row(
        put("set/a.png", PNG), f"{FOLDER} --model.num_classes 3", "the data has no classes"
    ),
    "a name of two lines": Row(
        put("set/a\nb.png"), FOLDER, "the first is a b.png: it is empty; give other pictures"
    ),
    "cuts larger than the picture": Row(
        put("set/a.png", PNG),
        f"{FOLDER} --data.crop_from 32 80",
        "data.crop_from is (32, 80); it must be at least data.image_size, (64, 64)",
    ),
    "pictures without a size": Row(
        nothing, f"{FOLDER} --data.image_size 0 64", "data.image_size is (0, 64)"
    ),
    "pictures of endless size": Row(
        nothing, f"{FOLDER} --data.image_size 64 99999", "a height and a width in 1 … 16384"
    ),
    "two channels": Row(nothing, f"{FOLDER} --data.channels 2", "--data.channels"),
}

ZIPS = {
    "a zip that is not there": Row(nothing, ZIP, "x.zip does not exist; give a folder of"),
    "an empty file as a zip": Row(put("x.zip"), ZIP, "can't be read as a zip"),
    "a text as a zip": Row(put("x.zip", "hello"), ZIP, "copy or download it again"),
    "a torn zip": Row(cut(zipped({"a.png": PNG}), "x.zip", 0.7), ZIP, "cut short"),
    "a zip of nothing": Row(zipped({}), ZIP, "has no pictures"),
    "a zip of folders": Row(zipped({"cat/": b"", "dog/": b""}), ZIP, "has no pictures"),
    "a zip of texts": Row(zipped({"a.txt": b"hello"}), ZIP, "that can be read; it holds 1 .txt"),
    "a zip of shadows": Row(zipped({"__MACOSX/._a.png": PNG}), ZIP, "has no pictures"),
    "a zip of zips": Row(zipped({"a.zip": b"PK"}), ZIP, "1 .zip (an archive; unpack it)"),
    "names that lead out": Row(
        zipped({"../up.png": PNG, "/root.png": PNG, "a\\..\\..\\b.png": PNG}),
        ZIP,
        "has no pictures",
    ),
    "an encrypted zip": Row(
        patched(zipped({"a.png": PNG}), *ENCRYPTED), ZIP, "a.png: it is encrypted; make a zip"
    ),
    "an unknown compression": Row(
        patched(zipped({"a.png": PNG}), (LOCAL, 8, b"\x63\x00"), (CENTRAL, 10, b"\x63\x00")),
        ZIP,
        "a.png: That compression method is not supported",
    ),
    "entries over one another": Row(
        patched(zipped({f"{i}.png": PNG for i in range(30)}), (CENTRAL, 20, b"\xff\xff\0\0")),
        ZIP,
        "is a zip bomb (its entries claim",
    ),
    "a bomb in all": Row(
        patched(zipped({"a.png": PNG}), (CENTRAL, 24, struct.pack("<I", 2**32 - 2))),
        ZIP,
        "is a zip bomb (it unpacks to 4,294,967,294 bytes",
    ),
    "a bomb in one entry": Row(
        zipped({"a.bmp": bytes(2**24 + 1)}), ZIP, "a.bmp: it unpacks to 16,777,217 bytes"
    ),
    "an entry with a wrong checksum": Row(
        patched(zipped({"a.png": PNG}), (CENTRAL, 16, b"\0\0\0\0")), ZIP, "a.png: Bad CRC-32"
    ),
    "one broken entry, strictly": Row(
        zipped({"a.png": PNG, "b.png": b"no"}),
        f"{ZIP} --data.strict True",
        "b.png: it is not a pict",
    ),
    "another kind of archive": Row(
        put("x.tar", "x" * 2000), ZIP.replace(".zip", ".tar"), "is a file, not a folder"
    ),
}

ARRAYS = {
    "no array": Row(
        nothing, f"train {CONFIGS}/arrays.py --workdir {{here}}/new", "data.path is not set"
    ),
    "an array that is not there": Row(nothing, NPY, "x.npy does not exist; give a .npz"),
    "a folder as an array": Row(lambda here: (here / "x.npy").mkdir(), NPY, "x.npy is a folder"),
    "a text as an array": Row(put("x.npy", "hello, world"), NPY, "it does not begin like a NumPy"),
    "a torn array": Row(cut(array(IMAGES), "x.npy", 0.8), NPY, "can't be read"),
    "a torn header": Row(cut(array(IMAGES), "x.npy", 0.1), NPY, "can't be read"),
    "objects in an array": Row(array(np.array([Trap()])), NPY, "objects, which are not unpickl"),
    "a pickle as an array": Row(put("x.npy", TRAP), NPY, "can't be read"),
    "a pickle as an npz": Row(put("x.npz", TRAP), NPZ, "can't be read"),
    "objects in an npz": Row(arrays(x=np.array([Trap()])), NPZ, "which are not unpickled"),
    "a table of named columns": Row(
        arrays(x=np.zeros(3, [("größe", "u1")])), NPZ, "images must be numbers"
    ),
    "an array of none": Row(array(IMAGES[:0]), NPY, "it is (0, 4, 4, 3)"),
    "a single number": Row(array(np.float32(3)), NPY, "has no examples: it is ()"),
    "channels first": Row(
        array(np.zeros((5, 3, 8, 8), np.uint8)),
        NPY,
        "images of 8×8 with 3 channels (data.axes NCHW)",
    ),
    "one picture for a batch": Row(
        array(np.zeros((64, 64, 3), np.uint8)),
        NPY,
        "one image of 64×64 with 3 channels (data.axes H",
    ),
    "one picture, channels first": Row(
        array(np.zeros((3, 64, 64), np.uint8)),
        NPY,
        "one image of 64×64 with 3 channels (data.axes C",
    ),
    "one grey picture": Row(array(np.zeros((64, 64), np.uint8)), NPY, "grey image data.axes HW"),
    "axes of another array": Row(
        array(IMAGES), f"{NPY} --data.axes NHW", "data.axes is NHW, but {here}/x.npy holds 5×4×4×3"
    ),
    "two channels in an array": Row(
        array(np.full((5, 8, 8, 2), 200, np.uint8)), NPY, "have 2; set data.channels to 2"
    ),
    "grey for five channels": Row(
        array(np.full((9, 8, 8), 200, np.uint8)),
        f"{NPY} --data.channels 5",
        "set data.channels to 1",
    ),
    "no channels": Row(array(IMAGES), f"{NPY} --data.channels 0", "data.channels is 0; it must be"),
    "a channel that is not there": Row(
        array(IMAGES), f"{NPY} --data.show_channels 1 2 3", "one channel or three, each in 0 … 2"
    ),
    "two channels to see": Row(
        array(IMAGES), f"{NPY} --data.show_channels 1 2", "data.show_channels is (1, 2); it must be"
    ),
    "channels of points": Row(
        array(np.zeros((9, 2))),
        f"{NPY} --data.holds points --data.show_channels 0",
        "data.show_channels is (0,); it must be two numbers, each in 0 … 1",
    ),
    "masks of 0 and 1": Row(
        array(IMAGES // 200), NPY, "is 1 of 255; give 0 255 to keep them dark, or 0 1 to stretch"
    ),
    "negative whole numbers": Row(
        array(IMAGES.astype(np.int16) - 1000), NPY, "int16 from -800 to -800; give the values of"
    ),
    "12 bits in 16 of an array": Row(
        array(IMAGES.astype(np.uint16) * 20), NPY, "uint16 from 4000 to 4000; give the values of"
    ),
    "films": Row(array(np.zeros((2, 2, 8, 8, 3), np.uint8)), NPY, "images must be [N, H, W] or"),
    "points as images": Row(array(np.zeros((9, 2))), NPY, "points need data.holds points"),
    "words as images": Row(array(np.full((2, 4, 4), "x")), NPY, "images must be numbers"),
    "complex images": Row(array(np.zeros((2, 4, 4), complex)), NPY, "images must be numbers"),
    "floats without a range": Row(
        array(IMAGES / 255),
        NPY,
        "float64 from 0.784314 to 0.784314; give the values of black and white",
    ),
    "values outside their range": Row(
        array(IMAGES + 1.5), f"{NPY} --data.range -1 1", "has 201.5 to 201.5; widen it"
    ),
    "a NaN among the values": Row(
        array(np.where(np.arange(240).reshape(5, 4, 4, 3) == 99, np.nan, 0)),
        f"{NPY} --data.range -1 1",
        "has values that are NaN; fix or remove them",
    ),
    "a range of nothing": Row(
        array(IMAGES), f"{NPY} --data.range 1 1", "data.range is (1.0, 1.0); it must be two"
    ),
    "an endless range": Row(
        array(IMAGES), f"{NPY} --data.range 0 inf", "data.range is inf; it must be a finite number"
    ),
    "a name for one array": Row(
        array(IMAGES), f"{NPY} --data.examples x", "is a single array, which has no name"
    ),
    "labels that are not there": Row(
        array(IMAGES), f"{NPY} --data.labels {{here}}/y.npy", "data.labels: {here}/y.npy does not"
    ),
    "several arrays": Row(arrays(a=IMAGES, b=IMAGES), NPZ, "has the arrays a, b; name one in data"),
    "no such array": Row(
        arrays(a=IMAGES), f"{NPZ} --data.examples x", "has no array 'x'; it has a"
    ),
    "no such labels": Row(arrays(a=IMAGES), f"{NPZ} --data.labels y", "has no array 'y'; it has a"),
    "labels of another number": Row(
        arrays(a=IMAGES, labels=np.arange(4)), NPZ, "5 examples and labels of shape (4,)"
    ),
    "labels in between": Row(
        arrays(a=IMAGES, labels=np.arange(5) / 2), NPZ, "labels of type float64; give whole numbers"
    ),
    "labels beyond float's whole numbers": Row(
        arrays(a=IMAGES, labels=np.array([1e300, 1, 2, 1, 1])), NPZ, "labels of 2^53 or more"
    ),
    "labels of other classes": Row(
        arrays(a=IMAGES, labels=np.arange(5)),
        f"{NPZ} --model.num_classes 2",
        "set model.num_classes to 5",
    ),
    "a torn npz": Row(
        cut(arrays(a=IMAGES), "x.npz", 0.6), NPZ, "can't be read (File is not a zip file)"
    ),
    "pictures as an npz": Row(
        zipped({"a.png": PNG}, "x.npz"), NPZ, "for pictures in a zip use configs/folder"
    ),
    "points of space": Row(
        every(POINTS_FILE, array(np.zeros((9, 3)))),
        MINE,
        "points must be numbers [N, 2]: set data.dimensions to 3",
    ),
    "points of one number": Row(
        array(np.zeros((9, 1))),
        f"{NPY} --data.holds points --data.dimensions 1",
        "data.dimensions is 1; it must be at least 2",
    ),
    "dimensions of images": Row(
        array(IMAGES),
        f"{NPY} --data.dimensions 3",
        "data.dimensions is 3; it must be 2 for images, which have none",
    ),
    "points at infinity": Row(
        every(POINTS_FILE, array(np.full((9, 2), np.inf))), MINE, "points that are not finite"
    ),
    "mirrored points": Row(
        array(np.zeros((9, 2))),
        f"{NPY} --data.holds points --data.flip True",
        "data.flip is True; it must be False for points",
    ),
}

PICTURES = {
    "a picture that is not there": Row(nothing, PICTURE, "a.png does not exist; give a picture's"),
    "a folder as a picture": Row(put("a.png/b.png", PNG), PICTURE, "a.png is a folder; give"),
    "a text as a picture": Row(put("a.png", "hello"), PICTURE, "(it is not a picture); give"),
    "a CT slice alone": Row(
        put("a.png", picture("TIFF", mode="I", level=-1000)),
        f"{PICTURE} --train.batch_size 8",
        "a.png has signed or 32-bit levels from -1000 to -1000; give the values",
    ),
    "a mask alone": Row(
        put("a.png", picture(level=1)),
        f"{PICTURE} --train.batch_size 8",
        "the greatest level of {here}/a.png in 8 bits is 1",
    ),
    "half a picture": Row(put("a.png", PNG[: len(PNG) // 2]), PICTURE, "give another picture"),
}

LOOKS = {
    "a normalisation that adds nothing": Row(
        nothing,
        f"train {CONFIGS}/single_image.py --model.norm_epsilon 0",
        "model.norm_epsilon is 0.0; it must be between 0 and 1",
    ),
    "nothing to look at": Row(nothing, INFO, "does not exist; name a folder"),
    "a text to look at": Row(put("set", "hello"), INFO, "is a file, not a folder"),
    "an empty folder to look at": Row(lambda here: (here / "set").mkdir(), INFO, "no pictures"),
    "a torn array to look at": Row(
        cut(array(IMAGES), "x.npy", 0.8), INFO.replace("set", "x.npy"), "can't be read"
    ),
    "only broken pictures to look at": Row(
        put("set/a.png"), INFO, "1 of 1 pictures in {here}/set can't be read"
    ),
    "a list to look at": Row(array(np.arange(9)), INFO.replace("set", "x.npy"), "holds an array"),
    "words to look at": Row(
        array(np.full((9, 2), "x")), INFO.replace("set", "x.npy"), "points must be numbers [N, 2]"
    ),
    "no such set": Row(nothing, "data info mnizt", "did you mean mnist?"),
    "one picture to look at": Row(
        array(np.zeros((64, 64, 3), np.uint8)),
        INFO.replace("set", "x.npy"),
        "(data.axes NHW), or one image of 64×64 with 3 channels (data.axes HWC)",
    ),
    "a wrong setting to look at": Row(
        put("set/a.png", PNG), f"{INFO} --data.axes HWC", "unknown setting"
    ),
    "a grid of another kind": Row(
        put("set/a.png", PNG), f"{INFO} --output {{here}}/x.jpg", "this figure is a .png file"
    ),
    "a grid in no folder": Row(
        put("set/a.png", PNG), f"{INFO} --output {{here}}/no/x.png", "can't be written"
    ),
    "a split of a folder": Row(
        put("set/a.png", PNG), f"{INFO} --split test", "--split is of a TFDS data set, and {here}"
    ),
    "nothing named": Row(nothing, "data info", "use: ddpm data info SOURCE"),
    "an unknown question": Row(nothing, "data inf x", "or: ddpm data info SOURCE"),
}
