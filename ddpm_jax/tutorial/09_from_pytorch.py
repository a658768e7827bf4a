# %% [markdown]
# # For those who come from PyTorch
#
# What is where, and five habits that differ.
#
# | in a PyTorch notebook | here |
# | --- | --- |
# | `nn.Module` with its parameters inside | a Flax module, and a tree of parameters beside it |
# | `model(x, t)` | `network.apply({"params": params}, x, t, train=False)` |
# | `loss.backward()`, `optimizer.step()` | `jax.value_and_grad(loss)(params)`, Optax's `update` |
# | `Dataset`, `DataLoader` | a source, and the batch as a function of the step |
# | `torch.randn`, `manual_seed` | `jax.random.normal(key, shape)`, `stream_key(seed, …)` |
# | `[B, C, H, W]` | `[B, H, W, C]` |
# | `t` in 0 … T-1 | `t` in 1 … T; 0 is the data |
# | `torch.no_grad()`, `.detach()` | nothing: only what `grad` is asked for is differentiated |
# | `model.train()`, `model.eval()` | the argument `train` |
# | `torch.compile` | `jax.jit` |
# | `.to(device)`, `DataParallel` | shardings over a mesh; `runtime.mesh` |
# | `state_dict`, `torch.save` | `ddpm_jax.load(folder).params`; `ddpm export` |
# | weights of diffusers | `ddpm import FOLDER --from diffusers --workdir RUN` |

# %%
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ddpm_jax.diffusion import make_schedule, q_step
from ddpm_jax.models import MlpConfig, make_network
from ddpm_jax.runtime.mesh import make_mesh

# %% [markdown]
# ## 1. Random numbers come from keys
#
# There is no hidden generator. The same key gives the same numbers, so a key is used once, and
# split or folded with a number to get others. Forgetting that is the commonest mistake:

# %%
key = jax.random.key(0)
assert jax.random.normal(key) == jax.random.normal(key)
of_noise, of_times = jax.random.split(key)
assert jax.random.normal(of_noise) != jax.random.normal(of_times)

# %% [markdown]
# What you gain: the numbers of step 1,000 can be had without steps 1 to 999, so a run that was
# killed goes on with the same bits, and does not depend on the number of devices.
#
# ## 2. `jit` sees shapes, not values
#
# A compiled function is traced once for each shape and type; then Python no longer runs. So a
# `print` or an `if` on a value belongs outside, or becomes `jnp.where` or `jax.lax.cond`.

# %%
traced = []


@jax.jit
def double(x):
    traced.append(x.shape)  # Python: it runs while tracing alone.
    return 2 * x


for size in (4, 4, 4, 6):
    double(jnp.zeros(size))
assert traced == [(4,), (6,)]

# %% [markdown]
# A last batch that is smaller would compile again. Here all batches have one size: an epoch's end
# and the start of the next may share one.
#
# ## 3. Networks are functions, and parameters are data
#
# A tree of arrays can be averaged, saved, differentiated and sent to devices by functions that know
# nothing of networks. Arrays never change in place: a step returns new ones.

# %%
network = make_network(MlpConfig(width=16), out_channels=2, timesteps=100)
x, t = jnp.zeros((1, 2)), jnp.ones((1,), jnp.int32)
params: Any = network.init(key, x, t, train=False)["params"]
halved = jax.tree.map(lambda leaf: leaf / 2, params)
shapes = jax.tree.map(lambda leaf: leaf.shape, params)
print(shapes["layer_0"])
assert shapes["layer_0"] == {"kernel": (2, 16), "bias": (16,)}
np.testing.assert_allclose(2 * halved["layer_1"]["kernel"], params["layer_1"]["kernel"])

# %% [markdown]
# ## 4. Loops over steps are `scan`
#
# A Python loop inside `jit` is unrolled: each of a hundred steps is in the program. `scan`
# compiles one step, and carries a state. A sampler is a scan, and so are several steps of training.

# %%
schedule = make_schedule("linear", 100)


def step(x, t):
    noise = jax.random.normal(jax.random.fold_in(key, t), x.shape)
    return q_step(schedule, x, t, noise), None


def unrolled(x):
    for t in range(1, 101):
        x, _ = step(x, jnp.array(t))
    return x


def scanned(x):
    return jax.lax.scan(step, x, jnp.arange(1, 101))[0]


lines = [jax.jit(f).lower(jnp.ones((8, 2))).as_text().count("\n") for f in (unrolled, scanned)]
print(f"unrolled {lines[0]:,} lines of program, scanned {lines[1]:,}")
assert lines[0] > 5 * lines[1]
np.testing.assert_allclose(scanned(jnp.ones((8, 2))), unrolled(jnp.ones((8, 2))), atol=1e-5)

# %% [markdown]
# ## 5. One program runs on all devices
#
# There is no loop over devices and no process for each of them. Arrays say how they lie over a
# mesh, and the compiler splits the program. The same code runs on a laptop's CPU and on a pod.

# %%
mesh = make_mesh(devices=jax.devices()[:1])
print(mesh)
rows = NamedSharding(mesh, PartitionSpec(("data", "fsdp")))
batch = jax.device_put(jnp.ones((8, 2)), rows)
out = jax.jit(scanned, out_shardings=rows)(batch)
assert out.sharding == rows

# %% [markdown]
# `ddpm train` uses all devices that JAX finds, `--mesh.fsdp 8` splits the state over eight each,
# and `ddpm info CONFIG --devices 64` says what each of 64 would hold.
#
# ## And small things
#
# - Everything outside the network is float32; `--model.dtype bfloat16` is for the network alone.
# - Calls return before they are done. To measure time, wait: `result.block_until_ready()`.
# - A traceback through `jit` is long: look at the last lines of your own file. `JAX_DEBUG_NANS=1`
#   stops where the first NaN is made.
# - The first call compiles, and the package keeps what it compiled in its cache.
