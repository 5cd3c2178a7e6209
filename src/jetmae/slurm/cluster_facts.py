"""What Slurm's commands print of a cluster, as mappings and numbers. All functions but `ask_cluster` are pure."""

import getpass
import re
from dataclasses import dataclass

from jetmae.slurm.command import ask

Record = dict[str, str]
NO_LIMIT = {"UNLIMITED", "INFINITE", "NONE", "N/A", "(NULL)", ""}
QOS_COLUMNS = ("name", "maxwall", "gracetime", "preemptmode", "preempt")


@dataclass(frozen=True)
class ClusterFacts:
    """A cluster as its commands describe it; `qos` and `accounts` are None where accounting does not answer."""

    config: Record
    partitions: dict[str, Record]
    nodes: list[Record]
    qos: dict[str, Record] | None
    accounts: set[str] | None


def ask_cluster() -> ClusterFacts | None:
    """All that the checks of a cluster need; None if the controller does not answer."""
    config, partitions, nodes = (
        ask("scontrol", "--oneliner", "--all", "show", what) for what in ("config", "partition", "node")
    )
    if not (config and partitions and nodes):
        return None
    qos = ask("sacctmgr", "--noheader", "--parsable2", "show", "qos", f"format={','.join(QOS_COLUMNS)}")
    user = f"user={getpass.getuser()}"
    accounts = ask("sacctmgr", "--noheader", "--parsable2", "show", "associations", user, "format=account")
    return ClusterFacts(
        config=parse_config(config),
        partitions={record["PartitionName"]: record for record in parse_records(partitions)},
        nodes=parse_records(nodes),
        qos=None if qos is None else {record["name"]: record for record in parse_table(qos, QOS_COLUMNS)},
        accounts=None if accounts is None else set(accounts.split()),
    )


def parse_config(text: str) -> Record:
    """`scontrol show config`: lines of `Key = value`."""
    return dict(re.findall(r"^(\S+)\s*= ?(.*?)\s*$", text, flags=re.MULTILINE))


def parse_records(text: str) -> list[Record]:
    """`scontrol --oneliner show ...`: a line of `Key=value` per object; a value may contain blanks."""
    fields = r"(?:^| )([A-Za-z][A-Za-z:/]*)=(.*?)(?= +[A-Za-z][A-Za-z:/]*=|\s*$)"
    return [dict(re.findall(fields, line)) for line in text.splitlines() if "=" in line]


def parse_table(text: str, columns: tuple[str, ...]) -> list[Record]:
    """`sacctmgr --parsable2`: values between bars."""
    return [dict(zip(columns, line.split("|"), strict=False)) for line in text.splitlines() if line]


def minutes_of(limit: str) -> float | None:
    """A time limit, `[days-]hours:minutes:seconds`, in minutes; None: no limit."""
    if limit.upper() in NO_LIMIT:
        return None
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if days:  # after days, what is left out are the smaller units: 1-12 is a day and 12 hours
        parts += [0] * (3 - len(parts))
    else:  # otherwise the larger ones: 90 is minutes, 90:30 minutes and seconds
        parts = [0, *parts, 0] if len(parts) == 1 else [0] * (3 - len(parts)) + parts
    return int(days or 0) * 1440 + parts[0] * 60 + parts[1] + parts[2] / 60


def number_of(text: str) -> int | None:
    """A count, or the number in `30 sec`; None: no limit."""
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None


def seconds_of(text: str) -> float:
    """A duration as configured: `30 sec`, `30`, `00:00:30`."""
    return (minutes_of(text) or 0) * 60 if ":" in text else float(number_of(text) or 0)


def gpus_of(gres: str) -> int:
    """GPUs in a node's Gres: `gpu:a100:4(S:0-1)`, `gpu:2,shard:8`; 0 without."""
    without_sockets = re.sub(r"\([^)]*\)", "", gres)
    counts = re.findall(r"(?:^|,)gpu(?::[^:,]+)*?(?::(\d+))?(?=,|$)", without_sockets)
    return sum(int(count or 1) for count in counts)


def mebibytes_of(memory: str | None) -> int | None:
    """sbatch's --mem: MiB unless a letter says otherwise."""
    if memory is None:
        return None
    factor = {"K": 2**-10, "M": 1, "G": 2**10, "T": 2**20}[memory[-1] if memory[-1].isalpha() else "M"]
    return int(float(memory.rstrip("KMGT")) * factor)


def listed(text: str) -> set[str] | None:
    """An AllowAccounts-like list; None: everybody."""
    return None if text.upper() == "ALL" or text.upper() in NO_LIMIT else set(text.split(","))
