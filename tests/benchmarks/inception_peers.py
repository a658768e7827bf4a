"""Inception, its resizes and metrics against torch-fidelity, pytorch-fid and clean-fid, by hand.

    pip install -e '.[inception]' torch-fidelity pytorch-fid clean-fid scipy
    python tests/benchmarks/inception_peers.py [--images N]

All three need torchvision. Where it isn't installed, an empty module stands in for it: nothing of
it is used here. The network has random weights of the published layout, which keep activations of
order 1, in files as the projects would write them: PyTorch's zip, its older format, safetensors.
The resizes are each peer's own code.
"""

import argparse
import importlib.machinery
import importlib.metadata
import importlib.util
import sys
import tempfile
import time
import types
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))
# Not as `tests.…`: clean-fid installs a package named tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "evaluation/features/inception"))

import oracle  # type: ignore[import-not-found]

from ddpm_jax.evaluation.features import Features
from ddpm_jax.evaluation.features.inception.network import apply
from ddpm_jax.evaluation.features.inception.resize import RESIZES, resize
from ddpm_jax.evaluation.features.inception.weights import read_weights
from ddpm_jax.evaluation.metrics.frechet import fid
from ddpm_jax.evaluation.metrics.inception_score import inception_score
from ddpm_jax.evaluation.metrics.kernel import kid
from ddpm_jax.evaluation.metrics.neighbours import precision_recall
from ddpm_jax.evaluation.statistics import FeatureSet
from ddpm_jax.runtime.compilation import compiler_options

SIZES = ((1, 1), (2, 3), (3, 2), (1, 5), (8, 8), (28, 28), (32, 32), (64, 48), (299, 299))
SIZES += ((299, 300), (300, 301), (333, 512), (640, 480))
NETWORK_TOLERANCE, RESIZE_TOLERANCE, METRIC_TOLERANCE = 1e-4, 1e-6, 1e-6


class _Nothing(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def without_torchvision() -> None:
    """Lets `import torchvision` succeed where it isn't installed."""
    if importlib.util.find_spec("torchvision"):
        return
    below = (".datasets", ".models", ".models.inception", ".transforms", ".transforms.functional")
    for name in ("", *below):
        module = _Nothing(f"torchvision{name}")
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        module.__dict__.update({"__path__": [], "__version__": "0.0"})
        sys.modules[module.__name__] = module
        parent, _, child = module.__name__.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, in units of the largest entry."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def compare_network(images: np.ndarray) -> bool:
    import torch  # type: ignore[import-not-found]
    from safetensors.numpy import save_file  # type: ignore[import-not-found]
    from torch_fidelity.feature_extractor_inceptionv3 import (  # type: ignore[import-not-found]
        FeatureExtractorInceptionV3,
    )

    tensors = oracle.state_dict()
    with tempfile.TemporaryDirectory() as scratch:
        state = {name: torch.from_numpy(value) for name, value in tensors.items()}
        files = [Path(scratch) / name for name in ("zip.pth", "old.pth", "x.safetensors")]
        torch.save(state, files[0])
        torch.save(state, files[1], _use_new_zipfile_serialization=False)
        save_file(tensors, files[2])
        peer = FeatureExtractorInceptionV3(
            "peer", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(files[0])
        )
        read = [read_weights(file)[0] for file in files]
    same = all(
        jax.tree.all(jax.tree.map(np.array_equal, parameters, read[0])) for parameters in read[1:]
    )
    print(f"the three files hold the same parameters: {same}")
    count = sum(value.numel() for value in peer.parameters())
    print(f"parameters of torch-fidelity's network: {count:,}")
    with torch.no_grad():
        theirs = [it.numpy() for it in peer(torch.from_numpy(images.transpose(0, 3, 1, 2)))]
    program = jax.jit(apply, compiler_options=compiler_options(jax.devices()[0]))
    inputs = resize(images, "tf1")
    ours = [np.asarray(it) for it in program(read[0], inputs)]
    begun = time.perf_counter()
    jax.block_until_ready(program(read[0], inputs))
    print(f"the network: {len(images) / (time.perf_counter() - begun):.1f} images/s")
    good = same
    for name, our, their in zip(("features", "logits"), ours, theirs, strict=True):
        error = relative(our, their)
        print(
            f"{name}: largest {np.abs(their).max():.3g}, std over images {their.std(0).mean():.2g}"
        )
        print(f"  ours differ by {error:.2g} of the largest (at most {NETWORK_TOLERANCE})")
        good &= error <= NETWORK_TOLERANCE
    return good


def compare_resizes() -> bool:
    import torch  # type: ignore[import-not-found]
    from cleanfid.resize import build_resizer  # type: ignore[import-not-found]
    from pytorch_fid.inception import InceptionV3  # type: ignore[import-not-found]
    from torch_fidelity.interpolate_compat_tensorflow import (  # type: ignore[import-not-found]
        interpolate_bilinear_2d_like_tensorflow1x,
    )

    # pytorch-fid's own forward pass, with the identity as its network.
    front = InceptionV3.__new__(InceptionV3)
    torch.nn.Module.__init__(front)
    front.resize_input = front.normalize_input = True
    front.blocks, front.output_blocks = torch.nn.ModuleList([torch.nn.Identity()]), [0]
    front.last_needed_block = 0
    clean = build_resizer("clean")

    def peers(pixels: np.ndarray) -> dict[str, np.ndarray]:
        first = torch.from_numpy(pixels.transpose(0, 3, 1, 2)).float()
        tf1 = interpolate_bilinear_2d_like_tensorflow1x(first, (299, 299), align_corners=False)
        planes = {"tf1": (tf1 - 128) / 128, "torch": front(first / 255)[0]}
        return {
            **{name: x.numpy().transpose(0, 2, 3, 1) for name, x in planes.items()},
            "clean": np.stack([(clean(picture) - 128) / 128 for picture in pixels]),
        }

    worst: dict[str, float] = dict.fromkeys(RESIZES, 0.0)
    rng = np.random.default_rng(0)
    for size in SIZES:
        noise = rng.integers(0, 256, (2, *size, 3), np.uint8)
        for mode, theirs in peers(noise).items():
            worst[mode] = max(worst[mode], float(np.abs(resize(noise, mode) - theirs).max()))
    print(f"resizes of noise of {len(SIZES)} sizes, largest difference in the range -1 … 1:")
    for mode, error in worst.items():
        most = 0.0 if mode == "tf1" else RESIZE_TOLERANCE
        print(f"  {mode}: {error:.2g} (at most {most})")
    small = rng.integers(0, 256, (64, 32, 32, 3), np.uint8)
    for mode in worst:
        begun = time.perf_counter()
        resize(small, mode)
        print(f"  {mode}: {len(small) / (time.perf_counter() - begun):.0f} images/s from 32x32")
    return worst["tf1"] == 0 and max(worst.values()) <= RESIZE_TOLERANCE


def compare_metrics() -> bool:
    """The metrics of the same features, against torch-fidelity's with its own defaults."""
    import torch  # type: ignore[import-not-found]
    from torch_fidelity import (  # type: ignore[import-not-found]
        metric_fid,
        metric_isc,
        metric_kid,
        metric_prc,
    )

    rng = np.random.default_rng(2)
    # Correlated, non-negative and of different scales, as Inception's are; neither set covers the
    # other, so that precision and recall are neither 0 nor 1.
    mix = rng.normal(size=(6, 2048)) * rng.uniform(0.2, 2, 2048) / 2
    x, y = rng.normal(size=(3_000, 6)), 0.8 * rng.normal(size=(2_500, 6)) + 0.9
    real, samples = (np.maximum(it @ mix, 0).astype(np.float32) for it in (x, y))
    logits = rng.normal(size=(2_500, 1008)).astype(np.float32) * 3
    ours: dict[str, float] = {}
    sides = [FeatureSet(real, None, None), FeatureSet(samples, logits, None)]
    for row in (fid(), kid(), inception_score(), precision_recall()):
        states = []
        for vectors, scores, _ in sides:
            state = row.init()
            for start in range(0, len(vectors), 400):
                part = slice(start, start + 400)
                more = None if scores is None else scores[part]
                state = row.update(state, Features(vectors[part], more), None)
            states.append(state)
        ours |= row.result(*states)
    r, s = torch.from_numpy(real).double(), torch.from_numpy(samples).double()
    theirs = {
        "fid": metric_fid.fid_statistics_to_metric(
            metric_fid.fid_features_to_statistics(s),
            metric_fid.fid_features_to_statistics(r),
            False,
        )[metric_fid.KEY_METRIC_FID]
    }
    found = metric_kid.kid_features_to_metric(s, r, verbose=False)
    theirs["kid"] = found[metric_kid.KEY_METRIC_KID_MEAN]
    theirs["kid_std"] = found[metric_kid.KEY_METRIC_KID_STD]
    found = metric_isc.isc_features_to_metric(torch.from_numpy(logits).double())
    theirs["inception_score"] = found[metric_isc.KEY_METRIC_ISC_MEAN]
    theirs["inception_score_std"] = found[metric_isc.KEY_METRIC_ISC_STD]
    found = metric_prc.prc_features_to_metric(s, r, verbose=False)
    theirs["precision"] = found[metric_prc.KEY_METRIC_PRECISION]
    theirs["recall"] = found[metric_prc.KEY_METRIC_RECALL]
    worst = 0.0
    for name, their in theirs.items():
        error = abs(ours[name] - their) / abs(their)
        print(f"{name}: {ours[name]:.10g}, theirs {their:.10g}, relative difference {error:.2g}")
        worst = max(worst, error)
    print(f"  at most {METRIC_TOLERANCE}")
    return worst <= METRIC_TOLERANCE


def main() -> int:
    words = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    words.add_argument("--images", type=int, default=8, help="through the network (default 8)")
    options = words.parse_args()
    without_torchvision()
    for name in ("jax", "torch", "torch-fidelity", "pytorch-fid", "clean-fid"):
        print(f"{name} {importlib.metadata.version(name)}", end="; ")
    print(f"on {jax.devices()[0].device_kind}")
    images = np.random.default_rng(1).integers(0, 256, (options.images, 32, 48, 3), np.uint8)
    good = [compare_metrics(), compare_resizes(), compare_network(images)]
    print("all equal within tolerance" if all(good) else "THEY DIFFER")
    return 0 if all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
