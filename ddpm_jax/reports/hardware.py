"""Named hardware: what its makers publish of it, and how long an exchange takes on it at best."""

from typing import NamedTuple

from ddpm_jax.reports.communication import Collective


class Hardware(NamedTuple):
    """One device of a kind, and how it is joined to others; bytes and FLOPs a second."""

    peak_flops: float
    """Of products in bfloat16, dense, summed in float32."""
    memory: int
    memory_rate: float
    link_rate: float
    """What it can send at once over all of its links to devices of its node."""
    node: int
    """How many devices those links join: a node of GPUs, the largest slice of TPUs."""
    network_rate: float
    """What it can send to other nodes."""
    torus: int = 1
    """The smallest slice whose every axis is a ring; in smaller ones half of the links lead
    nowhere."""
    source: str = ""

    @property
    def said(self) -> str:
        """The figures in a line, as their source has them."""
        joined = f" in nodes of {self.node}" if self.torus == 1 else ""
        return (
            f"{self.peak_flops / 1e12:,.0f} TFLOP/s, {self.memory / 1e9:,.0f} GB at "
            f"{self.memory_rate / 1e9:,.0f} GB/s, links of {2 * self.link_rate / 1e9:,.0f} GB/s "
            f"both ways together{joined}, network of {8 * self.network_rate / 1e9:,.0f} Gbit/s "
            f"({self.source})"
        )

    def seconds(self, exchange: Collective, *, devices: int, stride: int = 1) -> float:
        """Returns how long a collective takes that does nothing but keep the links busy.

        `stride` apart stand those that take part, of all `devices`. By rings within a node and,
        at the same place of each node, between nodes: of what is added up or gathered, only one
        part in as many as take part in a node goes through the network.
        """
        inside = max(1, min(exchange.group, self.node // stride))
        links = self.link_rate if devices >= self.torus else self.link_rate / 2
        nodes = -(-exchange.group // inside)
        near = exchange._replace(group=inside).sent
        far = exchange._replace(group=nodes, bytes=exchange.bytes // inside).sent
        return near / links + far / self.network_rate


# A maker's "bidirectional" rate is half of it each way.
HARDWARE = {
    "TPU v5e": Hardware(
        peak_flops=197e12,
        memory=16 * 10**9,
        memory_rate=819e9,
        link_rate=400e9 / 2,
        node=256,
        # 6.4 Tbit/s a pod.
        network_rate=6.4e12 / 8 / 256,
        torus=256,
        # The v5e page's tables of chip and pod; rings in axes of 16 alone: its 2-D torus.
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
        # 1,979 with sparsity, which the data sheet gives, is twice this.
        peak_flops=989.5e12,
        memory=80 * 10**9,
        memory_rate=3.35e12,
        link_rate=900e9 / 2,
        node=8,
        # Eight ConnectX-7 of 400 Gbit/s a node, one for each GPU.
        network_rate=400e9 / 8,
        source="NVIDIA, «H100 Tensor Core GPU» and «DGX H100» data sheets",
    ),
}
