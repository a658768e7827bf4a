"""Published figures of named hardware, and the shortest time that an exchange takes on it.

The one table that `ddpm bench`, `ddpm info --devices` and `ddpm info --target` read.
"""

from typing import NamedTuple

from ddpm_jax.reports.communication import Collective


class Hardware(NamedTuple):
    """One device and its links to others; rates are in bytes or FLOPs per second."""

    peak_flops: float
    """Of dense products in bfloat16, summed in float32."""
    memory: int
    memory_rate: float
    link_rate: float
    """Sending rate over all links to devices of the same node together."""
    node: int
    """The number of devices joined by those links: a node of GPUs, the largest slice of TPUs."""
    network_rate: float | None
    """Sending rate to other nodes; None where none is published for a chip."""
    torus: int = 1
    """The smallest slice whose axes are all rings; smaller slices can use half of the links."""
    kept: float = 1.0
    """The share that a compiled step keeps of what JAX would keep for the backward pass."""
    kinds: tuple[str, ...] = ()
    """How JAX's `device_kind` of such a device begins."""
    clock: float | None = None
    """Cycles a second, of TPUs: turns the cycles that their compiler estimates into time."""
    source: str = ""

    @property
    def said(self) -> str:
        """The figures in one line, in the units of their source."""
        joined = f" in nodes of {self.node}" if self.torus == 1 else ""
        network = (
            f", network of {8 * self.network_rate / 1e9:,.0f} Gbit/s" if self.network_rate else ""
        )
        return (
            f"{self.peak_flops / 1e12:,.0f} TFLOP/s, {self.memory / 1e9:,.0f} GB at "
            f"{self.memory_rate / 1e9:,.0f} GB/s, links of {2 * self.link_rate / 1e9:,.0f} GB/s "
            f"both ways together{joined}{network} ({self.source})"
        )

    def seconds(self, exchange: Collective, *, devices: int, stride: int = 1) -> float:
        """Returns the seconds of a collective that keeps the links busy all the time.

        Its members are `stride` apart among all `devices`. It runs rings within each node, and
        rings between equal places of all nodes. If m members share a node, each of them sends 1/m
        of the array through the network.
        """
        inside = max(1, min(exchange.group, self.node // stride))
        links = self.link_rate if devices >= self.torus else self.link_rate / 2
        nodes = -(-exchange.group // inside)
        near = exchange._replace(group=inside).sent
        far = exchange._replace(group=nodes, bytes=exchange.bytes // inside).sent
        return near / links + (far / self.network_rate if self.network_rate and far else 0.0)

    def reaches(self, devices: int) -> bool:
        """Returns whether so many devices can be joined by links of known rates."""
        return devices <= self.node or self.network_rate is not None


# Fitted to the temporaries that the v5e's compiler plans for configs/cifar10.py in bfloat16, at 16
# and at 128 images a chip; the H100's plans what JAX would keep.
_TPU_KEEPS = 0.54

# A published "bidirectional" rate is twice the rate of one direction. A clock is the published peak
# by the FLOPs of a cycle: 2 · 128 · 128 for each matrix unit, of which v5e has 4, v4 and v5p 8.
HARDWARE = {
    "TPU v4": Hardware(
        peak_flops=275e12,
        memory=32 * 2**30,
        memory_rate=1200e9,
        # Six links of 50 GB/s.
        link_rate=300e9,
        node=4096,
        network_rate=None,
        torus=64,
        kept=_TPU_KEEPS,
        kinds=("TPU v4",),
        clock=275e12 / (8 * 2 * 128**2),
        source="Google Cloud documentation, «TPU v4»; Jouppi et al. 2023, table 4",
    ),
    "TPU v5e": Hardware(
        peak_flops=197e12,
        memory=16 * 10**9,
        memory_rate=819e9,
        link_rate=400e9 / 2,
        node=256,
        # 6.4 Tbit/s per pod.
        network_rate=6.4e12 / 8 / 256,
        torus=256,
        kept=_TPU_KEEPS,
        kinds=("TPU v5 lite", "TPU v5e"),
        clock=197e12 / (4 * 2 * 128**2),
        # The page's tables of chip and pod. Only axes of 16 are rings: its 2-D torus.
        source="Google Cloud documentation, «TPU v5e»",
    ),
    "TPU v5p": Hardware(
        peak_flops=459e12,
        memory=95 * 2**30,
        memory_rate=2765e9,
        link_rate=1200e9 / 2,
        # The largest slice that a job gets, 16x16x24.
        node=6144,
        network_rate=50e9 / 8,
        # One cube, 4x4x4.
        torus=64,
        kept=_TPU_KEEPS,
        kinds=("TPU v5p", "TPU v5"),
        clock=459e12 / (8 * 2 * 128**2),
        source="Google Cloud documentation, «TPU v5p»",
    ),
    "TPU v6e": Hardware(
        peak_flops=918e12,
        memory=32 * 10**9,
        memory_rate=1600e9,
        link_rate=800e9 / 2,
        node=256,
        # 25.6 Tbit/s per pod.
        network_rate=25.6e12 / 8 / 256,
        torus=256,
        kept=_TPU_KEEPS,
        kinds=("TPU v6 lite", "TPU v6e"),
        clock=918e12 / (16 * 2 * 128**2),
        source="Google Cloud documentation, «TPU v6e»",
    ),
    "A100 SXM 40GB": Hardware(
        peak_flops=312e12,
        memory=40 * 10**9,
        memory_rate=1555e9,
        link_rate=600e9 / 2,
        node=8,
        # Eight ConnectX-6 of 200 Gbit/s per node, one for each GPU.
        network_rate=200e9 / 8,
        kinds=("NVIDIA A100-SXM4-40GB",),
        source="NVIDIA, «A100 Tensor Core GPU» and «DGX A100» data sheets",
    ),
    "H100 SXM": Hardware(
        # The data sheet gives 1,979 with sparsity, twice this.
        peak_flops=989.5e12,
        memory=80 * 10**9,
        memory_rate=3.35e12,
        link_rate=900e9 / 2,
        node=8,
        # Eight ConnectX-7 of 400 Gbit/s per node, one for each GPU.
        network_rate=400e9 / 8,
        kinds=("NVIDIA H100 80GB HBM3",),
        source="NVIDIA, «H100 Tensor Core GPU» and «DGX H100» data sheets",
    ),
}


def hardware_of(device_kind: str) -> Hardware | None:
    """Returns the published figures of a device by JAX's name of its kind; None if unknown."""
    # The longest name first: "TPU v5" begins "TPU v5 lite" too.
    known = {kind: row for row in HARDWARE.values() for kind in row.kinds}
    names = sorted(known, key=len, reverse=True)
    return next((known[name] for name in names if device_kind.startswith(name)), None)
