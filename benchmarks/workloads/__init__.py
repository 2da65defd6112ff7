"""One module per workload, each with `run(world, sizes) -> Result`."""

from collections.abc import Callable, Mapping

from benchmarks.results import Result
from benchmarks.sizes import Sizes
from benchmarks.workloads import actor_commits, chat, commands, fan_out, hops, idle_streams, readers, reconnects, scale
from benchmarks.world import World

WORKLOADS: Mapping[str, Callable[[World, Sizes], Result]] = {
    "chat": chat.run,
    "hops": hops.run,
    "actor_commits": actor_commits.run,
    "commands": commands.run,
    "fan_out": fan_out.run,
    "idle_streams": idle_streams.run,
    "readers": readers.run,
    "reconnects": reconnects.run,
    "scale": scale.run,
}
