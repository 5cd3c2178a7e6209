"""What the cluster offers against what the job asks for, and what it will do to the job.

Every check takes facts that `cluster_facts.ask_cluster` has collected, so that it can be tried on any cluster's text.
"""

import difflib
from collections.abc import Iterator

from jetmae.doctor.verdict import Verdict, failed, ok, warning
from jetmae.launch.resources import Request
from jetmae.slurm.cluster_facts import (
    ClusterFacts,
    Record,
    gpus_of,
    listed,
    minutes_of,
    number_of,
    seconds_of,
)
from jetmae.slurm.command import QUESTION_TIMEOUT_S, answer_of

STEP_ALLOWANCE_S = 2.0  # what a step and the agreement to stop may take, on top of the save
SIGNAL_GRAIN_S = 60.0  # Slurm may send the signal before the time limit so much too early
UNUSABLE_STATES = ("DOWN", "DRAIN", "FAIL", "MAINT", "NOT_RESPONDING", "POWERING_DOWN", "FUTURE", "UNKNOWN")


def check_cluster(request: Request, facts: ClusterFacts, save_s: float | None) -> Iterator[Verdict]:
    """Every check of Slurm's configuration. `save_s` is what writing a checkpoint takes, where known."""
    yield check_account(request, facts)
    yield check_qos(request, facts)
    yield check_requeue(facts.config)
    yield check_warning_time(request, save_s)
    for name in partitions_asked(request, facts):
        partition = facts.partitions.get(name)
        if partition is None:
            yield unknown_partition(name, facts)
            continue
        yield check_state(partition)
        yield check_time(request, partition)
        yield check_access(request, partition)
        yield check_nodes(request, partition, nodes_of(partition, facts))
        if request.gpus_per_node:
            yield check_gpus(request, partition, nodes_of(partition, facts))
        yield check_preemption(partition, facts, qos_of(request, facts))
        if preempt_mode(partition, facts, qos_of(request, facts)) != "OFF":
            yield check_grace(partition, facts, qos_of(request, facts), save_s)
            yield check_user_signal(facts.config)


def partitions_asked(request: Request, facts: ClusterFacts) -> list[str]:
    """The partitions named, or the cluster's default."""
    if request.partition:
        return request.partition.split(",")
    return [name for name, partition in facts.partitions.items() if partition.get("Default") == "YES"]


def unknown_partition(name: str, facts: ClusterFacts) -> Verdict:
    near = difflib.get_close_matches(name, facts.partitions, n=1)
    todo = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(facts.partitions)}"
    return failed(f"partition {name}", "does not exist", "sbatch would refuse the job", todo)


def check_state(partition: Record) -> Verdict:
    name, state = f"partition {partition['PartitionName']}", partition["State"]
    if state == "UP":
        return ok(name, f"up, {partition.get('TotalNodes', '?')} nodes")
    meaning = "jobs are refused" if state in ("INACTIVE", "DRAIN") else "jobs wait and do not start"
    return failed(name, state.lower(), meaning, "choose another --partition (sinfo lists them), or ask when it is back")


def check_time(request: Request, partition: Record) -> Verdict:
    name, limit_min = f"time in {partition['PartitionName']}", minutes_of(partition["MaxTime"])
    found = f"{request.time_min} min asked, MaxTime {partition['MaxTime']}"
    if limit_min is None or request.time_min <= limit_min:
        return ok(name, found)
    todo = f"--time {limit_min:.0f}: a run goes on after its time limit, in the same folder"
    return failed(name, found, "the job is refused, or waits for ever as PartitionTimeLimit", todo)


def check_access(request: Request, partition: Record) -> Verdict:
    """May this account and this QOS use the partition?"""
    name = f"access to {partition['PartitionName']}"
    for asked, option, field in ((request.account, "account", "AllowAccounts"), (request.qos, "qos", "AllowQos")):
        allowed = listed(partition.get(field, "ALL"))
        if asked and allowed is not None and asked not in allowed:
            todo = f"--{option} {' or '.join(sorted(allowed))}, or another --partition"
            return failed(name, f"{field}={partition[field]}", f"{option} {asked} is not admitted", todo)
    return ok(name, "account and QOS are admitted")


def nodes_of(partition: Record, facts: ClusterFacts) -> list[Record]:
    name = partition["PartitionName"]
    return [node for node in facts.nodes if name in node.get("Partitions", "").split(",")]


def is_usable(node: Record) -> bool:
    return not any(state in node["State"] for state in UNUSABLE_STATES) and "*" not in node["State"]


def check_nodes(request: Request, partition: Record, nodes: list[Record]) -> Verdict:
    """Are there as many nodes as asked for that are up and large enough?"""
    name, most = f"nodes of {partition['PartitionName']}", number_of(partition["MaxNodes"])
    if most is not None and request.nodes > most:
        found = f"{request.nodes} asked, MaxNodes {most}"
        return failed(name, found, "the job is refused, or waits for ever as PartitionNodeLimit", f"--nodes {most}")
    large = [node for node in nodes if _is_large_enough(request, node)]
    usable = sum(map(is_usable, large))
    found = f"{request.nodes} asked; {len(nodes)} there, {len(large)} large enough, {usable} of these up"
    if len(large) < request.nodes:
        need = f"{request.tasks_per_node} ranks x {request.cpus_per_task} CPUs"
        need += f", {request.memory_mib} MiB" if request.memory_mib else ""
        return failed(name, found, f"a node must have {need}", "lower --nodes, --cpus-per-task or --mem")
    if usable < request.nodes:
        return warning(name, found, "the job waits until nodes come back", "sinfo -R says why they are away")
    return ok(name, found)


def _is_large_enough(request: Request, node: Record) -> bool:
    cpus = number_of(node.get("CPUEfctv") or node.get("CPUTot") or "0") or 0
    memory_mib = number_of(node.get("RealMemory", "0")) or 0
    return cpus >= request.tasks_per_node * request.cpus_per_task and memory_mib >= (request.memory_mib or 0)


def check_gpus(request: Request, partition: Record, nodes: list[Record]) -> Verdict:
    """Do enough nodes have the GPUs, and is there one per rank?"""
    name = f"GPUs of {partition['PartitionName']}"
    counts = [gpus_of(node.get("Gres", "")) for node in nodes]
    found = f"{request.gpus_per_node} per node asked, nodes have {_range(counts)}"
    if sum(count >= request.gpus_per_node for count in counts) < request.nodes:
        todo = f"--gpus-per-node {max(counts)}" if max(counts, default=0) else "another --partition (sinfo -o '%P %G')"
        return failed(name, found, f"fewer than {request.nodes} node(s) have so many: sbatch refuses the job", todo)
    if request.tasks_per_node > request.gpus_per_node:
        found = f"{request.tasks_per_node} ranks for {request.gpus_per_node} GPU(s) on each node"
        return failed(name, found, "ranks without a GPU die of 'invalid device ordinal'", "leave out --ranks-per-node")
    if request.tasks_per_node < request.gpus_per_node:
        found = f"{request.tasks_per_node} rank(s) for {request.gpus_per_node} GPUs on each node"
        return warning(name, found, "a rank uses one GPU: the others stand idle", "leave out --ranks-per-node")
    return ok(name, found)


def _range(counts: list[int]) -> str:
    if not counts:
        return "none"
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def check_account(request: Request, facts: ClusterFacts) -> Verdict:
    if facts.accounts is None:
        return ok("account", f"{request.account or 'not given'}; accounting does not answer")
    mine = ", ".join(sorted(facts.accounts)) or "none"
    enforced = "associations" in facts.config.get("AccountingStorageEnforce", "")
    found = f"{request.account or 'default'}; yours: {mine}"
    if not request.account and (facts.accounts or not enforced):
        return ok("account", found)
    if request.account in facts.accounts:
        return ok("account", found)
    if not enforced:
        return warning("account", found, "the cluster accepts any name here; usage is booked on it", "check --account")
    return failed("account", found, "sbatch refuses the job: invalid account", "--account with one of yours")


def qos_of(request: Request, facts: ClusterFacts) -> Record | None:
    return (facts.qos or {}).get(request.qos or "")


def check_qos(request: Request, facts: ClusterFacts) -> Verdict:
    if not request.qos or facts.qos is None:
        unanswered = "; accounting does not answer" if facts.qos is None else ""
        return ok("QOS", f"{request.qos or 'the default'}{unanswered}")
    if request.qos not in facts.qos:
        todo = f"there are: {', '.join(facts.qos)}"
        return failed("QOS", f"{request.qos} does not exist", "sbatch refuses the job", todo)
    limit = facts.qos[request.qos].get("maxwall", "")
    limit_min = minutes_of(limit)
    if limit_min is not None and request.time_min > limit_min:
        found = f"{request.time_min} min asked, {request.qos} allows {limit}"
        meaning = "the job waits for ever as QOSMaxWallDurationPerJobLimit"
        return failed("QOS", found, meaning, f"--time {limit_min:.0f}")
    return ok("QOS", request.qos)


def check_requeue(config: Record) -> Verdict:
    if config.get("JobRequeue") == "1":
        return ok("requeue", "JobRequeue=1")
    meaning = "launch.py asks for --requeue itself; a job of your own script that does not is lost when preempted"
    return warning(
        "requeue",
        f"JobRequeue={config.get('JobRequeue')}",
        meaning,
        "#SBATCH --requeue in own scripts; launch.py --no-requeue where the site forbids it",
    )


def check_warning_time(request: Request, save_s: float | None) -> Verdict:
    """Is the warning before the time limit long enough for a save, and short enough to leave time to train?"""
    limit_s, name = request.time_min * 60, "lead time"
    found = f"signal {request.lead_time_s} s before the limit of {limit_s} s"
    if request.lead_time_s + SIGNAL_GRAIN_S >= limit_s:
        meaning = f"Slurm may send it {SIGNAL_GRAIN_S:.0f} s early: the job may be told to stop before it trains"
        return failed(name, found, meaning, "a longer --time, or a shorter --lead-time-s")
    if save_s is not None and request.lead_time_s < 2 * save_s + STEP_ALLOWANCE_S:
        todo = f"--lead-time-s {2 * save_s + STEP_ALLOWANCE_S + 1:.0f}"
        return warning(name, found, f"a save takes about {save_s:.0f} s and may take twice that", todo)
    return ok(name, found)


def preempt_mode(partition: Record, facts: ClusterFacts, qos: Record | None) -> str:
    """What happens to a job of this partition when another wants its nodes; OFF: nothing."""
    kind, cluster_wide = facts.config.get("PreemptType", ""), facts.config.get("PreemptMode", "OFF")
    if kind in ("preempt/none", "(null)", "") or cluster_wide == "OFF":
        return "OFF"
    own = qos.get("preemptmode", "") if kind == "preempt/qos" and qos else partition.get("PreemptMode", "")
    return (own if own and own != "cluster" else cluster_wide).upper()


def check_preemption(partition: Record, facts: ClusterFacts, qos: Record | None) -> Verdict:
    name = f"preemption in {partition['PartitionName']}"
    mode = preempt_mode(partition, facts, qos)
    found = f"{mode} ({facts.config.get('PreemptType')})"
    if "REQUEUE" in mode:
        return ok(name, found, "a preempted job comes back by itself")
    if "CANCEL" in mode:
        return warning(name, found, "a preempted job is gone, what it has saved is not", "give the same command again")
    if "SUSPEND" in mode or "GANG" in mode:
        meaning = "a suspended job keeps its memory and its peers' connections may time out"
        return warning(name, found, meaning, "prefer a partition with PreemptMode REQUEUE or OFF")
    return ok(name, found, "nobody takes the nodes away")


def grace_s(partition: Record, facts: ClusterFacts, qos: Record | None) -> float:
    if qos and facts.config.get("PreemptType") == "preempt/qos":
        return seconds_of(qos.get("gracetime", "0"))
    return seconds_of(partition.get("GraceTime", "0"))


def check_grace(partition: Record, facts: ClusterFacts, qos: Record | None, save_s: float | None) -> Verdict:
    """Between the first signal of a preemption and the end: is that long enough for a save?"""
    name, grace = f"grace in {partition['PartitionName']}", grace_s(partition, facts, qos)
    kill_wait_s = seconds_of(facts.config.get("KillWait", "0"))
    found = f"GraceTime {grace:.0f} s, KillWait {kill_wait_s:.0f} s"
    found += "" if save_s is None else f", a save about {save_s:.1f} s"
    if grace == 0:
        meaning = f"TERM is followed by KILL after {kill_wait_s:.0f} s: the steps since the last checkpoint may be lost"
        return warning(name, found, meaning, "log.checkpoint_steps smaller, or a partition with GraceTime")
    if save_s is not None and grace < save_s + STEP_ALLOWANCE_S:
        meaning = "a preempted job is killed while it saves: the steps since the last checkpoint are lost"
        return warning(name, found, meaning, "log.checkpoint_steps smaller, faster storage, or a longer GraceTime")
    return ok(name, found, "a preempted job can save before it goes")


def check_user_signal(config: Record) -> Verdict:
    """Either spelling of the option: it moved from SlurmctldParameters to PreemptParameters."""
    options = f"{config.get('SlurmctldParameters', '')},{config.get('PreemptParameters', '')}".split(",")
    if "preempt_send_user_signal" in options or "send_user_signal" in options:
        return ok("preemption signal", "send_user_signal is set", "USR2 comes first, TERM after GraceTime")
    meaning = "TERM comes at once and GraceTime is all there is; jetmae saves on TERM as on USR2"
    return ok("preemption signal", "send_user_signal is not set", meaning)


def ask_sbatch(script: str) -> tuple[int, str]:
    """What sbatch would say to this script: exit code and message. Nothing is submitted."""
    answer = answer_of("sbatch", "--test-only", stdin=script, timeout_s=3 * QUESTION_TIMEOUT_S)
    return 1 if answer.code is None else answer.code, answer.output + answer.error


def check_submission(code: int, message: str) -> Verdict:
    """The answer of `ask_sbatch`: Slurm's own opinion, which also knows what no configuration file says."""
    lines = [line.removeprefix("sbatch: ") for line in message.strip().splitlines()] or [f"exit code {code}"]
    if code == 0:
        return ok("sbatch --test-only", lines[-1])
    reason = next((line for line in reversed(lines) if "error" in line or "failure" in line), lines[-1])
    return failed("sbatch --test-only", reason, "sbatch refuses the job as it is asked for", "see the lines above")
