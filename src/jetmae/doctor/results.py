"""What the ranks of doctor's job have found, compared with each other. Pure functions of what they wrote."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from statistics import median

from jetmae.doctor.job import Outcome
from jetmae.doctor.machine import check_shared_memory
from jetmae.doctor.ranks import NAMES, Ask, Found
from jetmae.doctor.verdict import Verdict, failed, ok, warning
from jetmae.runtime.addresses import is_loopback

Results = dict[int, Found]
SLOW_FACTOR = 0.8  # of the median speed of the peers; healthy GPUs of a kind lie within some per cent
CLOCK_TOLERANCE_S = 2.0
SLOW_RENDEZVOUS_S = 60.0
SLOW_NCCL_GB_PER_S = 2.0  # below what 25 Gbit/s give: NCCL has chosen a network that is not meant for it
MOST_NAMED = 8


def judge(outcome: Outcome, asked: Ask, *, warned_s: dict[str, float]) -> Iterator[Verdict]:
    """All verdicts of a job. `warned_s`: the time before each kind of end, by its name, in which a save has to fit."""
    yield check_came(outcome, asked.ranks)
    results = outcome.results
    if not results:
        return
    yield check_finished(outcome)
    yield from check_world(results, asked.ranks)
    yield from check_nodes(results, asked)
    if asked.gpus_per_node:
        yield from check_gpus(results, asked.gpus_per_node)
    if measured := having("rendezvous_s", results):
        yield from check_measurements(measured, warned_s)


def having(key: str, results: Results) -> Results:
    """The ranks that came far enough to have found this; of what nobody has looked at there is no verdict."""
    return {rank: found for rank, found in results.items() if key in found}


def check_nodes(results: Results, asked: Ask) -> Iterator[Verdict]:
    """What each node is like by itself."""
    checks = {
        "versions": check_versions,
        "variables_missing": check_variables,
        "scontrol": check_scontrol,
        "addresses": check_names,
        "shared_memory_mib": check_nodes_shared_memory,
    }
    for key, check in checks.items():
        if reached := having(key, results):
            yield check(reached)
    if looked := {**having("data", results), **having("data_error", results)}:
        yield check_data(looked, str(asked.data))


def check_gpus(results: Results, gpus_per_node: int) -> Iterator[Verdict]:
    if reached := having("visible_gpus", results):
        yield check_gpu_per_rank(reached, gpus_per_node)
    if reached := having("device", results):
        yield check_gpus_work(reached)


def check_measurements(results: Results, warned_s: dict[str, float]) -> Iterator[Verdict]:
    """What only ranks that have met can say."""
    yield check_rendezvous(results)
    yield check_clocks({rank: found["clock_s"] for rank, found in results.items() if "clock_s" in found})
    yield from check_reduce(results)
    yield from check_speed(results)
    yield from check_lease(results)
    yield from check_save(results, warned_s)


def check_came(outcome: Outcome, ranks: int) -> Verdict:
    """Did every rank write anything?"""
    missing = [rank for rank in range(ranks) if rank not in outcome.results]
    if not missing:
        return ok("ranks", f"all {ranks} came, job {outcome.state or 'cancelled by doctor'}")
    if not outcome.nodes:
        found = f"the job did not start: {outcome.state or 'PENDING'} ({outcome.reason})"
        return failed(
            "ranks", found, "nothing could be measured", "squeue --start -j shows Slurm's estimate; --wait-min"
        )
    found = (
        f"{len(missing)} of {ranks} missing: {named(missing, outcome)}; job {outcome.state or 'cancelled by doctor'}"
    )
    tail = outcome.log_tails.get(missing[0], "")
    meaning = f"the node did not start them, does not see the run folder, or they were killed; last words: {tail}"
    nodes = ",".join(sorted({outcome.nodes[rank] for rank in missing}))
    return failed("ranks", found, meaning, f"look at the node; --sbatch exclude={nodes} leaves it out")


def named(ranks: list[int], outcome: Outcome) -> str:
    """`rank 2 (node3), rank 5 (node6)`, at most so many."""
    words = [f"rank {rank} ({node_of(rank, outcome)})" for rank in ranks[:MOST_NAMED]]
    return ", ".join(words) + (" ..." if len(ranks) > MOST_NAMED else "")


def node_of(rank: int, outcome: Outcome) -> str:
    return str(outcome.results.get(rank, {}).get("node") or (outcome.nodes[rank] if outcome.nodes else "?"))


def check_finished(outcome: Outcome) -> Verdict:
    """The rank that stopped in the earliest stage is the likely cause; the others waited for it."""
    unfinished = [rank for rank, found in outcome.results.items() if found.get("stage") != "done"]
    if not unfinished:
        return ok("stages", "every rank went through all of them")
    killed = [rank for rank in unfinished if "error" not in outcome.results[rank]]
    rank = min(killed or unfinished, key=lambda rank: len(outcome.results[rank]))
    last = outcome.results[rank]
    found = f"{named(unfinished, outcome)} stopped; first rank {rank} in {str(last['stage']).replace('_', ' ')}"
    meaning = str(last.get("error") or f"killed or hung there; last words: {outcome.log_tails.get(rank, 'none')}")
    todo = f"mend what the other lines say, or look at {node_of(rank, outcome)}: its log is in the report folder"
    return failed("stages", found, meaning, todo)


def check_world(results: Results, ranks: int) -> Iterator[Verdict]:
    """RANK, LOCAL_RANK, WORLD_SIZE and the address of rank 0 follow from Slurm's variables."""
    missing = sorted({str(name) for found in results.values() for name in found.get("missing_variables") or ()})
    sizes = {found["world_size"] for found in results.values() if "world_size" in found}
    if missing:
        todo = "start ranks with srun (launch.py does), and pass Slurm's variables into the container"
        yield failed("ranks' places", f"{', '.join(missing)} not set", "a rank does not know which one it is", todo)
    elif sizes - {ranks}:
        found = f"WORLD_SIZE {', '.join(map(str, sorted(sizes)))}, expected {ranks}"
        todo = "unset WORLD_SIZE and RANK in the shell's start-up files"
        yield failed("ranks' places", found, "each would train alone, or wait for ranks that do not exist", todo)
    elif sizes:
        yield ok("ranks' places", f"RANK, LOCAL_RANK and WORLD_SIZE={ranks} follow from Slurm's variables")


def check_versions(results: Results) -> Verdict:
    """Python, packages and our own source are the same everywhere."""
    by_version = defaultdict(set)
    for found in results.values():
        versions = {**found["versions"], "source": found["code"]}
        by_version[" ".join(f"{name} {number}" for name, number in versions.items())].add(str(found["node"]))
    if len(by_version) == 1:
        return ok("versions", next(iter(by_version)))
    listed = "; ".join(f"{versions} on {', '.join(sorted(nodes))}" for versions, nodes in by_version.items())
    meaning = "ranks that run different code hang, or compute different things"
    return failed("versions", listed, meaning, "one environment on shared storage, or the same image on all nodes")


def check_variables(results: Results) -> Verdict:
    """Did what was exported where the job was submitted reach its ranks?"""
    lost = {name: found["node"] for found in results.values() for name in found["variables_missing"]}
    if not lost:
        return ok("environment", "the shell's variables reach the ranks")
    found = f"{', '.join(sorted(lost))} not set on {', '.join(sorted(set(lost.values())))}"
    meaning = "ranks run with other settings than this shell: something at the site acts as --export=NONE"
    return failed("environment", found, meaning, "ask the site for --export=ALL, or set them in ~/.bashrc or a module")


def check_scontrol(results: Results) -> Verdict:
    without = sorted({str(found["node"]) for found in results.values() if not found["scontrol"]})
    if not without:
        return ok("scontrol in the job", f"answers on {len({found['node'] for found in results.values()})} node(s)")
    meaning = "a preemption cannot be told from a time limit there, and the job cannot requeue itself"
    todo = "bind scontrol, its configuration and munge's socket into the container, or add its folder to PATH"
    return failed("scontrol in the job", f"not on {', '.join(without)}", meaning, todo)


def check_names(results: Results) -> Verdict:
    """Can every node find every other by name, and does its own name mean an address that others reach?"""
    bad = {
        f"{found['node']} -> {node} ({answer['error']})"
        for found in results.values()
        for node, answer in found["addresses"].items()
        if "error" in answer
    }
    if bad:
        listed = "; ".join(sorted(bad)[:MOST_NAMED])
        return failed("host names", listed, "ranks cannot reach rank 0", "tell the administrators: DNS or /etc/hosts")
    if misleading := misleading_names(results):
        meaning = "ranks try all addresses of rank 0's node instead; other programs would listen where nobody is"
        todo = "nothing for jetmae; for others, the administrators: the node's own address in its /etc/hosts"
        return warning("host names", "; ".join(misleading[:MOST_NAMED]), meaning, todo)
    nodes = {node for found in results.values() for node in found["addresses"]}
    return ok("host names", f"{len(nodes)} node(s) find each other")


def misleading_names(results: Results) -> list[str]:
    """Names that mean loopback on some node, unless all nodes share the network that this belongs to."""
    networks = {found.get("network", found["node"]) for found in results.values()}
    if len(networks) == 1:
        return []
    named = {
        f"{found['node']} -> {'itself' if node == found['node'] else node} ({answer['address']})"
        for found in results.values()
        for node, answer in found["addresses"].items()
        if is_loopback(answer["address"])
    }
    return sorted(named)


def check_nodes_shared_memory(results: Results) -> Verdict:
    """The smallest of all nodes."""
    sizes_mib = [found["shared_memory_mib"] for found in results.values()]
    smallest_mib = None if None in sizes_mib else min(sizes_mib)
    return check_shared_memory(smallest_mib, name="/dev/shm on nodes")


def check_data(results: Results, folder: str) -> Verdict:
    """The same manifest at the same place on every node."""
    bad = {f"{found['node']} ({found['data_error']})" for found in results.values() if "data_error" in found}
    digests = {found["data"] for found in results.values() if "data" in found}
    if not bad and len(digests) == 1:
        return ok("data on nodes", "the same everywhere")
    found = f"not on {', '.join(sorted(bad))}" if bad else f"{len(digests)} different datasets of that name"
    return failed("data on nodes", found, "ranks stop, or train on different jets", f"{folder} on shared storage")


def check_gpu_per_rank(results: Results, gpus_per_node: int) -> Verdict:
    """The classical 'invalid device ordinal': a rank's number is beyond the devices it sees, or two share one."""
    ranks_on = Counter(str(found["node"]) for found in results.values())
    without = [
        f"rank {rank} on {found['node']} is number {found['local_rank']} and sees {found['visible_gpus']}"
        for rank, found in results.items()
        if not sees_its_gpu(found, share=ranks_on[str(found["node"])] > gpus_per_node)
    ]
    todo = "as many ranks as GPUs per node, or --gpus-per-task=1; no CUDA_VISIBLE_DEVICES in start-up files"
    if without:
        return failed("GPU per rank", "; ".join(without[:MOST_NAMED]), "it has no GPU to train on", todo)
    shared = [
        f"{device} on {node}"
        for (node, device), count in Counter(
            (found["node"], found.get("device_id")) for found in results.values()
        ).items()
        if device and count > 1
    ]
    if shared:
        return failed("GPU per rank", ", ".join(shared), "two ranks have one GPU: training refuses to start", todo)
    return ok("GPU per rank", "every rank has one of its own")


def sees_its_gpu(found: Found, *, share: bool) -> bool:
    """As training chooses it (runtime/gpus.py). One GPU is a rank's own, unless there are fewer than ranks."""
    local_rank, visible = int(found["local_rank"]), found["visible_gpus"]
    if visible is None or local_rank < visible:
        return True
    return not share and bool(visible == 1 or (visible and found.get("has_own_gpus")))


def check_gpus_work(results: Results) -> Verdict:
    """Can torch use the GPU that Slurm has given?"""
    nodes_of_error = defaultdict(set)
    for found in results.values():
        if "device_error" in found:
            nodes_of_error[str(found["device_error"])].add(str(found["node"]))
    if nodes_of_error:
        listed = "; ".join(f"on {', '.join(sorted(nodes))}: {error}" for error, nodes in nodes_of_error.items())
        todo = "nvidia-smi on that node; torch must be a CUDA build that its driver supports"
        return failed("GPUs in torch", listed, "training stops when it starts", todo)
    names = Counter(str(found.get("device_name")) for found in results.values())
    return ok("GPUs in torch", ", ".join(f"{count} x {name}" for name, count in names.items()))


def check_rendezvous(results: Results) -> Verdict:
    slowest_s = max(found["rendezvous_s"] for found in results.values())
    backends = "/".join(sorted({str(found["backend"]) for found in results.values()}))
    found = f"{len(results)} ranks over {backends} in {slowest_s:.1f} s"
    if slowest_s > SLOW_RENDEZVOUS_S:
        return warning(
            "rendezvous", found, "every start takes this", "look at import times and the run folder's storage"
        )
    return ok("rendezvous", found)


def check_clocks(clocks_s: dict[int, float]) -> Verdict:
    """All were read a moment after the same barrier."""
    if not clocks_s:
        return warning("clocks", "not read", "the ranks stopped before", "see `stages`")
    middle_s = median(clocks_s.values())
    rank = max(clocks_s, key=lambda rank: abs(clocks_s[rank] - middle_s))
    off_s = clocks_s[rank] - middle_s
    if abs(off_s) > CLOCK_TOLERANCE_S:
        found = f"rank {rank}'s node is {abs(off_s):.0f} s {'ahead of' if off_s > 0 else 'behind'} the others"
        meaning = "log times and file dates disagree; far off, Slurm's credentials expire and the node is lost"
        return warning("clocks", found, meaning, "tell the administrators: time service (chrony) on that node")
    return ok("clocks", f"within {abs(off_s) * 1000:.0f} ms")


def check_reduce(results: Results) -> Iterator[Verdict]:
    speeds = [found["reduce_gb_per_s"] for found in results.values() if "reduce_gb_per_s" in found]
    if not speeds or len(results) == 1:
        return
    found = f"right sum, {min(speeds):.2f} GB/s bus bandwidth"
    if min(speeds) < SLOW_NCCL_GB_PER_S and {found["backend"] for found in results.values()} == {"nccl"}:
        meaning = "gradients travel over a slow network: every step waits for it"
        yield warning("all-reduce", found, meaning, "NCCL_DEBUG=INFO shows the network; NCCL_SOCKET_IFNAME chooses it")
    else:
        yield ok("all-reduce", found, "of interest beside what the network should give")


def check_speed(results: Results) -> Iterator[Verdict]:
    """Each device against the median of its kind."""
    by_kind: dict[str, Results] = defaultdict(dict)
    for rank, found in results.items():
        if "tflops" in found:
            by_kind[str(found.get("device_name", found["device"]))][rank] = found
    for kind, members in by_kind.items():
        yield compare_speeds(kind, members)


def compare_speeds(kind: str, members: Results) -> Verdict:
    typical = median(found["tflops"] for found in members.values())
    slow = {rank: found["tflops"] for rank, found in members.items() if found["tflops"] < SLOW_FACTOR * typical}
    name, typically = f"speed of {kind}", f"{typical:.3g} TFLOP/s is typical of {len(members)}"
    if not slow:
        return ok(name, f"{typically}, slowest {min(found['tflops'] for found in members.values()):.3g}")
    listed = [f"rank {rank} on {members[rank]['node']} {speed:.3g}" for rank, speed in slow.items()]
    meaning = f"all ranks wait for the slowest: training at {min(slow.values()) / typical:.0%} of its speed"
    nodes = ",".join(sorted({str(members[rank]["node"]) for rank in slow}))
    todo = f"somebody else's process, or heat? else --sbatch exclude={nodes}, and tell the administrators"
    return warning(name, f"{typically}; slow: {', '.join(listed[:MOST_NAMED])}", meaning, todo)


def check_lease(results: Results) -> Iterator[Verdict]:
    """A run belongs to whoever creates its lease: of ranks that create a name at once, one may succeed."""
    created = [found["names_created"] for found in results.values() if "names_created" in found]
    if not created:
        return
    if sum(created) == NAMES:
        yield ok("lease across nodes", f"{NAMES} names, each created by one rank alone")
    else:
        meaning = "two starts could train in one run folder"
        todo = "another --runs-dir, on a POSIX file system"
        yield failed("lease across nodes", f"{NAMES} names were created {sum(created)} times", meaning, todo)


def check_save(results: Results, warned_s: dict[str, float]) -> Iterator[Verdict]:
    """The slowest rank's share of a checkpoint, against the times in which a save has to fit."""
    times_s = {rank: found["save_s"] for rank, found in results.items() if "save_s" in found}
    if not times_s:
        return
    slowest = max(times_s, key=times_s.__getitem__)
    save_s = times_s[slowest]
    found = f"{save_s:.2g} s, all ranks together (slowest: rank {slowest} on {results[slowest]['node']})"
    short = [f"{name} {limit_s:.0f} s" for name, limit_s in warned_s.items() if limit_s < save_s]
    if short:
        meaning = f"longer than {', '.join(short)}: the steps since the last checkpoint are lost then"
        yield warning(
            "save time", found, meaning, "a longer --lead-time-s, smaller log.checkpoint_steps, faster storage"
        )
    else:
        yield ok("save time", found)
