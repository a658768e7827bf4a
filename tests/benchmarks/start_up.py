"""What a command costs before and after its work: help, import, and a second `ddpm sample`.

Run by hand from the repository's root, on a machine with nothing else to do:

    python tests/benchmarks/start_up.py RUN [--num 16] [--times 5]

RUN is a trained run, as runs/digits. Each time is that of a new process, by the clock, from its
start to its end. Of `ddpm sample` the chain is told apart: the network's steps after the first
dispatch, stretched to all of them. The first process of all fills the cache of programs.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time

# Runs the command as `ddpm` does, and tells when each dispatch of the chain was done.
SAMPLE = """
import sys, time
from ddpm_jax import cli
from ddpm_jax.runtime.compilation import enable_compilation_cache
enable_compilation_cache()
from ddpm_jax.sampling.chain import SampleProgram
call, ticks = SampleProgram.__call__, []
def clocked(self, *args, progress, **options):
    def told(done, total):
        ticks.append((time.perf_counter(), done, total))
        progress(done, total)
    return call(self, *args, progress=told, **options)
SampleProgram.__call__ = clocked
code = cli.main(sys.argv[1:])
(begun, first, total), (ended, last, _) = ticks[0], ticks[-1]
print("chain", (ended - begun) * total / (last - first))
sys.exit(code)
"""


def seconds(*command: str) -> tuple[float, str]:
    begun = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return time.perf_counter() - begun, done.stdout


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run")
    parser.add_argument("--num", type=int, default=16)
    parser.add_argument("--times", type=int, default=5)
    options = parser.parse_args()
    python, times = sys.executable, range(options.times)
    simple = {
        "import ddpm_jax": ("-c", "import ddpm_jax"),
        "ddpm --help": ("-m", "ddpm_jax.cli", "--help"),
    }
    for name, command in simple.items():
        median = statistics.median(seconds(python, *command)[0] for _ in times)
        print(f"{name}: {median:.2f} s")
    outside, chains = [], []
    with tempfile.TemporaryDirectory() as folder:
        sample = ["sample", options.run, "--num", str(options.num), "--output", f"{folder}/a.png"]
        for n in range(options.times + 1):
            whole, said = seconds(python, "-c", SAMPLE, *sample)
            found = re.search(r"chain (\S+)", said)
            assert found, said
            print(f"ddpm sample: {whole:.2f} s, its chain {float(found[1]):.2f} s")
            if n:
                chains.append(float(found[1]))
                outside.append(whole - chains[-1])
    print(
        f"a second ddpm sample: {statistics.median(outside):.2f} s outside the chain, "
        f"which took {statistics.median(chains):.2f} s"
    )


if __name__ == "__main__":
    main()
