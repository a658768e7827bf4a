"""Published figures of named hardware, and the shortest time that an exchange takes on it."""

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
    network_rate: float
    """Sending rate to other nodes."""
    torus: int = 1
    """The smallest slice whose axes are all rings; smaller slices can use half of the links."""
    source: str = ""

    @property
    def said(self) -> str:
        """The figures in one line, in the units of their source."""
        joined = f" in nodes of {self.node}" if self.torus == 1 else ""
        return (
            f"{self.peak_flops / 1e12:,.0f} TFLOP/s, {self.memory / 1e9:,.0f} GB at "
            f"{self.memory_rate / 1e9:,.0f} GB/s, links of {2 * self.link_rate / 1e9:,.0f} GB/s "
            f"both ways together{joined}, network of {8 * self.network_rate / 1e9:,.0f} Gbit/s "
            f"({self.source})"
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
        return near / links + far / self.network_rate


# A published "bidirectional" rate is twice the rate of one direction.
HARDWARE = {
    "TPU v5e": Hardware(
        peak_flops=197e12,
        memory=16 * 10**9,
        memory_rate=819e9,
        link_rate=400e9 / 2,
        node=256,
        # 6.4 Tbit/s per pod.
        network_rate=6.4e12 / 8 / 256,
        torus=256,
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
        source="Google Cloud documentation, «TPU v5p»",
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
        source="NVIDIA, «H100 Tensor Core GPU» and «DGX H100» data sheets",
    ),
}
